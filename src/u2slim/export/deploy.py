"""One net as one proved file for each precision."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx

from u2slim.export.calibration import Gate, Samples
from u2slim.export.conditioning import condition
from u2slim.export.parity import ParityRow, Reference, beside_darker, check_parity, reference_of
from u2slim.export.precisions import PRECISIONS, Precision
from u2slim.export.targets import TARGETS, Target
from u2slim.files import write_whole
from u2slim.models import Net
from u2slim.runtime.batch_axis import check_pixels, fix_batch
from u2slim.runtime.onnx_writer import convert, write_onnx
from u2slim.runtime.phone_files import remove_net, write_net_whole
from u2slim.sizes import Size, sides


@dataclass(frozen=True)
class Deployment:
    """A net, how its graph is made, and what its files are proved on.

    Args:
        size: side of its square input, or [height, width].
        images: RGB images of any size, for the comparison with torch.
        photos: likewise, without masks, for the ranges of activations.
        gate: what 8 bits may cost.
        batch: so many photos go in at once; None: any number.
        tolerance: the largest difference from torch that may ship in float32, anywhere.
        min_iou: of the masks with torch's, in 16 bits or packed.
        onnx2tf: the program that LiteRT's files are made by.
    """

    net: Net
    size: Size
    images: Sequence[np.ndarray]
    photos: Sequence[np.ndarray]
    gate: Gate
    outputs: str = "first"
    dynamic: bool = False
    batch: int | None = 1
    opset: int = 18
    tolerance: float = 1e-4
    min_iou: float = 0.995
    onnx2tf: str = "onnx2tf"
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_pixels(self.batch, *sides(self.size, "size"))

    def write(self, path: Path, preprocess: str, precision: str, target: str = "onnx") -> list[ParityRow]:
        """Make and compare one file, with what belongs to it, of which nothing is left where it does not agree.

        Raises:
            UserError: see `check_parity`.
        """
        rows: list[ParityRow] = []
        wanted, kind = PRECISIONS[precision], TARGETS[target]
        remove_net(path)  # a file of this name after a failure must not be an older net

        def make(partial_path: Path) -> None:
            if kind.convert is None:
                self._make(partial_path, preprocess, precision)
            else:
                self._convert(partial_path, preprocess, precision, kind)
            rows.extend(
                check_parity(
                    self.reference,
                    partial_path,
                    self.tolerance if wanted.exact else 1.0,
                    self.min_iou if wanted.keeps_masks else 0.0,
                    self.dynamic,
                    name=path.name,
                    all_must_load=wanted.loads_everywhere,
                    max_mean=wanted.max_mean,
                    runner=kind.runner,
                )
            )

        if kind.convert is None:
            write_whole(path, make)
        else:
            write_net_whole(path, make)
        return rows

    def _convert(self, path: Path, preprocess: str, precision: str, target: Target) -> None:
        assert target.convert is not None
        target.check_form(self.dynamic, self.batch, self.outputs)
        target.check_tools(self.onnx2tf)
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole.onnx"
            self._write_float(whole, preprocess, PRECISIONS[precision])
            entries = {item.key: item.value for item in onnx.load(whole).metadata_props}
            samples = Samples(self.images, self.photos, self.gate, self.onnx2tf)
            target.convert(whole, path, precision, samples, entries | {"u2slim.precision": precision})

    @cached_property
    def reference(self) -> Reference:
        """What all files are compared with."""
        images = self.images if self.batch == 1 else beside_darker(self.images)
        return reference_of(self.net, images, self.size)

    @cached_property
    def _float_files(self) -> dict[str, bytes]:
        """By the kind of input: all precisions are made of one graph."""
        return {}

    def _write_float(self, path: Path, preprocess: str, wanted: Precision) -> None:
        """The graph in float32, as a precision is made of it."""
        if preprocess not in self._float_files:
            # Conversions look at one photo after the other, so a number of photos is set when they are done.
            batch = 1 if self.batch == 1 else None
            options = self.opset, self.outputs, self.dynamic, batch
            write_onnx(self.net, self.size, path, preprocess, *options, self.metadata)
            self._float_files[preprocess] = path.read_bytes()
        path.write_bytes(self._float_files[preprocess])
        if wanted.conditioned:  # by the photos that it looks at, so that other precisions beside it change no file
            condition(path, self.photos if wanted.photos and self.photos else self.images)

    def _make(self, path: Path, preprocess: str, precision: str) -> None:
        wanted = PRECISIONS[precision]
        self._write_float(path, preprocess, wanted)
        if (conversion := wanted.convert) is not None:
            samples = Samples(self.images, self.photos, self.gate)
            convert(path, partial(conversion, samples=samples), precision)
        if self.batch is not None and self.batch > 1:
            model = onnx.load(path)
            fix_batch(model, self.batch)
            onnx.save(model, path)
