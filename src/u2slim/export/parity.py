"""The same images through every runtime: how far apart, how large, how fast."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from u2slim.errors import UserError
from u2slim.images.masks import class_shares
from u2slim.models import Net
from u2slim.runtime import ONNX_RUNTIMES, Runner, installed_runtimes, latency
from u2slim.runtime.file_runner import FileRunner
from u2slim.runtime.onnx_runners import PlainOpenCVRunner
from u2slim.runtime.phone_files import net_bytes
from u2slim.runtime.torch_runner import TorchRunner
from u2slim.sizes import Size, sides

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParityRow:
    """A file in a runtime beside torch: differences of probabilities, mask IoU at 1/2, bytes, latency, or an error.

    `iou` is that of all images together, the other two are of single images. Of classes, it is that of all their
    pixels, each pixel in its likeliest class.
    """

    file: str
    runtime: str
    bytes: int
    largest: float = math.nan
    mean: float = math.nan
    iou: float = math.nan
    median_iou: float = math.nan
    worst_iou: float = math.nan
    milliseconds: float = math.nan
    error: str = ""


@dataclass(frozen=True)
class Reference:
    """What torch makes of a net's images (H, W, 3), and its row."""

    images: list[np.ndarray]
    expected: np.ndarray
    row: ParityRow


def reference_of(net: Net, images: Sequence[np.ndarray], size: Size, repeats: int = 5) -> Reference:
    """Run the net with torch on RGB images of any size."""
    shape = sides(size, "size")
    images = [cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR) for image in images]
    # On the CPU, because a GPU may round convolutions to TF32, which is coarser than the tolerance.
    runner = TorchRunner(net, shape, device="cpu")
    runner.together = 1
    expected = np.stack(_probabilities(runner, images))
    weights = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    milliseconds = latency(runner, images[:1], repeats)
    return Reference(images, expected, ParityRow(net.name, "torch", weights, 0.0, 0.0, 1.0, 1.0, 1.0, milliseconds))


def beside_darker(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each image, and after it one a third as bright: in a batch, each must be normalised by its own maximum."""
    return [part for image in images for part in (image, image // 3)]


def check_parity(
    reference: Reference,
    path: Path,
    tolerance: float = 1e-4,
    min_iou: float = 0.0,
    dynamic: bool = False,
    repeats: int = 5,
    name: str | None = None,
    all_must_load: bool = True,
    max_mean: float = 1.0,
    runner: type[FileRunner] | None = None,
) -> list[ParityRow]:
    """Compare a file with what torch makes of the net: a row for each runtime.

    The runtimes are `runner`, or those of ONNX files that are installed. Where the file takes several photos at once,
    the images go in so; torch had each alone.

    Args:
        name: what the rows call the file.
        all_must_load: otherwise a runtime that cannot run the file gets a row that says why, as long as one can.

    Raises:
        UserError: a runtime does not load the file, gives NaN, is off by more than `tolerance` anywhere or `max_mean`
            in the mean, or makes masks whose IoU with the net's, over all images, is below `min_iou`.
    """
    rows, images = [], reference.images
    known = ONNX_RUNTIMES | {"opencv": PlainOpenCVRunner}
    kinds = [runner] if runner else [known[name] for name in _runtimes(dynamic)]
    size = net_bytes(path)
    for kind in kinds:
        try:
            running = kind(path)
        except UserError as error:
            if all_must_load:
                raise
            rows.append(ParityRow(name or path.name, kind.runtime, size, error=str(error)))
            continue
        masks = np.stack(_probabilities(running, images))
        milliseconds = latency(running, images[: running.together], repeats)
        row = _row(name or path.name, running, masks, reference.expected, size, milliseconds)
        if not (row.largest <= tolerance and row.mean <= max_mean):  # also true for NaN
            raise UserError(
                f"{row.runtime} differs from torch by up to {row.largest:.2g} (export.tolerance={tolerance:g}, "
                f"mean {row.mean:.2g}, mask IoU {row.iou:.4f}): no file was left."
            )
        if not row.iou >= min_iou:
            raise UserError(
                f"{row.runtime}'s masks have an IoU of {row.iou:.4f} with torch's, less than export.min_iou="
                f"{min_iou:g} (largest difference {row.largest:.2g}): no file was left."
            )
        rows.append(row)
    if all(row.error for row in rows):
        raise UserError(f"No runtime here runs the file: {rows[0].error}")
    return rows


def _runtimes(dynamic: bool) -> list[str]:
    runtimes = installed_runtimes()
    # upstream: https://github.com/opencv/opencv/issues/26141; drop when requirements.txt has OpenCV >= 5
    if dynamic and int(cv2.__version__.split(".")[0]) < 5:
        log.info("OpenCV %s loads no graph of open size, so it is not compared; OpenCV 5 loads it", cv2.__version__)
        runtimes.remove("opencv")
    return runtimes


def _row(
    file: str, runner: Runner, masks: np.ndarray, expected: np.ndarray, size: int, milliseconds: float
) -> ParityRow:
    difference = np.abs(masks - expected)
    cut, true = _cut(masks), _cut(expected)
    each = [_iou(*pair) for pair in zip(cut, true, strict=True)]
    ious = _iou(cut, true), float(np.median(each)), min(each)
    numbers = float(difference.max()), float(difference.mean()), *ious
    return ParityRow(file, runner.runtime, size, *numbers, milliseconds)


def _iou(cut: np.ndarray, true: np.ndarray) -> float:
    return float((cut & true).sum() / (cut | true).sum()) if (cut | true).any() else 1.0


def _probabilities(runner: Runner, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of each mask (H, W), or of each class (classes, H, W)."""
    outputs = runner.infer_all(images)
    return [class_shares(output) for output in outputs] if runner.labels else list(outputs)


def _cut(maps: np.ndarray) -> np.ndarray:
    """Masks (N, H, W) at one half, or classes (N, classes, H, W) at the likeliest of each pixel."""
    return maps > 0.5 if maps.ndim == 3 else maps == maps.max(1, keepdims=True)
