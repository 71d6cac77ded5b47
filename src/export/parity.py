"""The same images through every runtime: how far apart, how large, how fast."""

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import nn

from src.errors import UserError
from src.runtime import OnnxRuntimeSegmenter, OpenCVSegmenter, Segmenter, TorchSegmenter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One runtime beside torch: differences of the net's probabilities, mask IoU at 1/2, bytes, latency."""

    runtime: str
    largest: float
    mean: float
    iou: float
    bytes: int
    milliseconds: float


def check_parity(
    net: nn.Module,
    path: Path,
    images: Sequence[np.ndarray],
    size: int,
    tolerance: float = 1e-4,
    least_iou: float = 0.0,
    dynamic: bool = False,
    repeats: int = 5,
) -> list[Row]:
    """Compare the ONNX file with the net on RGB images of any size; the first row is torch itself.

    Raises:
        UserError: a runtime does not load the file, gives NaN, is off by more than `tolerance` anywhere, or makes masks
            whose IoU with the net's, over all images, is below `least_iou`.
    """
    images = [cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR) for image in images]
    torch_bytes = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    # On the CPU, because a GPU may round convolutions to TF32, which is coarser than the tolerance.
    reference = TorchSegmenter(net, (size, size), device="cpu")
    expected = [reference.probability(image) for image in images]
    rows = [_row(reference, expected, expected, torch_bytes, _latency(reference, images[0], repeats))]
    kinds = [OpenCVSegmenter, OnnxRuntimeSegmenter]
    if dynamic and int(cv2.__version__.split(".")[0]) < 5:
        log.info("OpenCV %s loads no graph of open size, so it is not compared; OpenCV 5 loads it", cv2.__version__)
        kinds.remove(OpenCVSegmenter)
    for kind in kinds:
        segmenter = kind(path)
        masks = [segmenter.probability(image) for image in images]
        row = _row(segmenter, masks, expected, path.stat().st_size, _latency(segmenter, images[0], repeats))
        if not row.largest <= tolerance:  # also true for NaN
            raise UserError(
                f"{row.runtime} differs from torch by up to {row.largest:.2g} (export.tolerance={tolerance:g}, "
                f"mean {row.mean:.2g}, mask IoU {row.iou:.4f}): no file was left."
            )
        if not row.iou >= least_iou:
            raise UserError(
                f"{row.runtime}'s masks have an IoU of {row.iou:.4f} with torch's, less than export.least_iou="
                f"{least_iou:g} (largest difference {row.largest:.2g}): no file was left."
            )
        rows.append(row)
    return rows


def _row(segmenter: Segmenter, masks: list, expected: list, size: int, milliseconds: float) -> Row:
    difference = np.abs(np.stack(masks) - np.stack(expected))
    cut, true = np.stack(masks) > 0.5, np.stack(expected) > 0.5
    iou = (cut & true).sum() / max(1, (cut | true).sum()) if (cut | true).any() else 1.0
    return Row(segmenter.runtime, float(difference.max()), float(difference.mean()), float(iou), size, milliseconds)


def _latency(segmenter: Segmenter, image: np.ndarray, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        segmenter.probability(image)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)
