"""The kinds of file that an export makes, one record each. A new one is an entry of the table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from u2slim.export.calibration import Samples
from u2slim.export.coreml_program import CoreMLRunner
from u2slim.export.precisions import PRECISIONS
from u2slim.export.to_coreml import to_coreml
from u2slim.export.to_litert import to_litert
from u2slim.export.to_ncnn import to_ncnn
from u2slim.runtime.file_runner import FileRunner
from u2slim.runtime.phone_runners import LiteRTRunner, NcnnRunner

_ON_PHONES = ("fp32", "fp16", "int8")


class Conversion(Protocol):
    """Writes `path`, and what belongs beside it, from the ONNX file `whole`, which is in float32."""

    def __call__(
        self, whole: Path, path: Path, precision: str, samples: Samples, metadata: Mapping[str, str]
    ) -> None: ...


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Args:
        name: as `export.target` has it.
        ending: of its files' names.
        precisions: those that it has.
        convert: makes it of an ONNX file; None: it is one.
        runner: what it is compared with torch in; None: the runtimes of ONNX files that are installed.
    """

    name: str
    ending: str
    precisions: tuple[str, ...]
    convert: Conversion | None = None
    runner: type[FileRunner] | None = None


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", ".onnx", tuple(PRECISIONS)),
        Target("ncnn", ".param", _ON_PHONES, to_ncnn, NcnnRunner),
        Target("litert", ".tflite", _ON_PHONES, to_litert, LiteRTRunner),
        # Nothing but a Mac runs it, and so its name says that nobody has.
        Target("coreml", ".unproved.mlpackage", _ON_PHONES, to_coreml, CoreMLRunner),
    )
}
