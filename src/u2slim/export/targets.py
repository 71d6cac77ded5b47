"""The kinds of file that an export makes, one record each. A new one is an entry of the table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from u2slim.errors import UserError
from u2slim.export.calibration import Samples
from u2slim.export.coreml_program import CoreMLRunner, coremltools
from u2slim.export.precisions import PRECISIONS
from u2slim.export.to_coreml import to_coreml
from u2slim.export.to_litert import onnx2tf_program, to_litert
from u2slim.export.to_ncnn import pnnx_program, to_ncnn
from u2slim.runtime import PHONE_RUNTIMES, check_runtime
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
        converter: finds what `convert` needs, given `export.onnx2tf`, or raises a UserError.
        runner: what it is compared with torch in; None: the runtimes of ONNX files that are installed.
    """

    name: str
    ending: str
    precisions: tuple[str, ...]
    convert: Conversion | None = None
    converter: Callable[[str], object] | None = None
    runner: type[FileRunner] | None = None

    def check_form(self, dynamic: bool, batch: object, outputs: str) -> None:
        """Raise a UserError where there are no such files of that form, as the settings of `export` name it."""
        if self.convert is not None and (dynamic or batch != 1 or outputs != "first"):
            raise UserError(
                f"export.target={self.name} makes files of one size for one photo, with one output: leave out "
                "export.dynamic, export.batch and export.outputs."
            )

    def check_tools(self, onnx2tf: str) -> None:
        """Raise a UserError where what makes or runs such a file is not installed."""
        if self.converter is not None:
            self.converter(onnx2tf)
        if self.name in PHONE_RUNTIMES:
            check_runtime(self.name)


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", ".onnx", tuple(PRECISIONS)),
        Target("ncnn", ".param", _ON_PHONES, to_ncnn, lambda _: pnnx_program(), NcnnRunner),
        Target("litert", ".tflite", _ON_PHONES, to_litert, onnx2tf_program, LiteRTRunner),
        # Nothing but a Mac runs it, and so its name says that nobody has.
        Target("coreml", ".unproved.mlpackage", _ON_PHONES, to_coreml, lambda _: coremltools(), CoreMLRunner),
    )
}
