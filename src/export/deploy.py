"""One net as one proved file for each precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from src.export.calibration import Gate, input_blobs
from src.export.graph import convert, write_onnx
from src.export.int8 import quantise
from src.export.parity import Row, check_parity
from src.export.precision import compute_in_half
from src.files import write_whole
from src.sizes import Size

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
            exact = precision == "fp32"
            rows.extend(
                check_parity(
                    self.net,
                    partial_path,
                    self.images,
                    self.size,
                    self.tolerance if exact else 1.0,
                    self.least_iou if precision in ("fp16", "fp16_compute") else 0.0,
                    self.dynamic,
                    name=path.name,
                    all_must_load=precision in ("fp32", "fp16"),
                    most_mean=WRONG if precision == "int8" else 1.0,
                )
            )

        write_whole(path, make)
        return rows

    def _make(self, path: Path, preprocess: str, precision: str) -> None:
        stored = precision if precision == "fp16" else "fp32"
        write_onnx(self.net, self.size, path, preprocess, self.opset, self.outputs, self.dynamic, stored, self.metadata)
        if precision == stored:
            return
        blobs = input_blobs(path, self.photos)
        if precision == "int8":
            convert(path, partial(quantise, blobs=blobs, gate=self.gate), precision)
        else:
            convert(path, partial(compute_in_half, blobs=[*blobs, *input_blobs(path, self.images)]), precision)
