"""One net as one proved file for each precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from torch import nn

from u2slim.export.calibration import Gate, input_blobs
from u2slim.export.half import compute_in_half, store_in_half
from u2slim.export.int8 import quantise
from u2slim.export.parity import Reference, Row, check_parity, reference_of
from u2slim.files import write_whole
from u2slim.runtime.onnx_writer import convert, write_onnx
from u2slim.sizes import Size

PRECISIONS = ("fp32", "fp16", "fp16_compute", "int8")
WRONG = 0.03  # a mean difference that rounding to 8 bits does not make, but a runtime that computes wrongly does


@dataclass(frozen=True)
class Deployment:
    """A net, how its graph is made, and what its files are proved on.

    Args:
        size: side of its square input, or [height, width].
        images: RGB images of any size, for the comparison with torch.
        photos: likewise, without masks, for the ranges of activations.
        gate: what maxF 8 bits may cost.
        tolerance: the largest difference from torch that may ship in float32, anywhere.
        least_iou: of the masks with torch's, in 16 bits.
    """

    net: nn.Module
    size: Size
    images: Sequence[np.ndarray]
    photos: Sequence[np.ndarray]
    gate: Gate
    outputs: str = "fused"
    dynamic: bool = False
    opset: int = 18
    tolerance: float = 1e-4
    least_iou: float = 0.995
    metadata: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path, preprocess: str, precision: str) -> list[Row]:
        """Make and compare one file, of which nothing is left where it does not agree.

        Raises:
            UserError: see `check_parity`.
        """
        rows: list[Row] = []
        path.unlink(missing_ok=True)  # a file of this name after a failure must not be an older net

        def make(partial_path: Path) -> None:
            self._make(partial_path, preprocess, precision)
            rows.extend(
                check_parity(
                    self.reference,
                    partial_path,
                    self.tolerance if precision == "fp32" else 1.0,
                    self.least_iou if precision in ("fp16", "fp16_compute") else 0.0,
                    self.dynamic,
                    name=path.name,
                    all_must_load=precision in ("fp32", "fp16"),
                    most_mean=WRONG if precision == "int8" else 1.0,
                )
            )

        write_whole(path, make)
        return rows

    @cached_property
    def reference(self) -> Reference:
        """What all files are compared with."""
        return reference_of(self.net, self.images, self.size)

    @cached_property
    def _float_files(self) -> dict[str, bytes]:
        """By the kind of input: all precisions are made of one graph."""
        return {}

    def _make(self, path: Path, preprocess: str, precision: str) -> None:
        if preprocess not in self._float_files:
            write_onnx(self.net, self.size, path, preprocess, self.opset, self.outputs, self.dynamic, self.metadata)
            self._float_files[preprocess] = path.read_bytes()
        path.write_bytes(self._float_files[preprocess])
        if precision == "fp16":
            convert(path, store_in_half, precision)
        elif precision == "int8":
            convert(path, partial(quantise, blobs=input_blobs(path, self.photos), gate=self.gate), precision)
        elif precision == "fp16_compute":
            blobs = input_blobs(path, [*self.photos, *self.images])
            convert(path, partial(compute_in_half, blobs=blobs), precision)
