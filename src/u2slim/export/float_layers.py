"""Which layers of a net stay in float, where all of them in 8 bits cost too much."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from rich.progress import track

from u2slim.export.calibration import Samples
from u2slim.images.masks import class_shares
from u2slim.runtime.file_runner import FileRunner
from u2slim.runtime.onnx_runners import OnnxRuntimeRunner

log = logging.getLogger(__name__)

# How many of the photos a range holds all values of: all of them, or else fewer. Some nets, as IS-Net, make values
# twenty times as large for one photo in two, and a range that holds those has too few steps for the rest.
SHARES = (WIDEST := 1.0, 0.5, 0.25)
RANKED_ON = 4  # photos: every layer is tried on each
# By which masks may move in the mean on these. Beyond .03 the comparison with torch takes a file for wrongly computed.
MAX_MOVED = 0.02


def fewest_in_float(
    whole: Path,
    path: Path,
    kind: type[FileRunner],
    layers: Sequence[str],
    write: Callable[[Path, Collection[str], float], None],
    samples: Samples,
) -> tuple[list[str], float]:
    """The layers that must stay in float so that maxF, or of classes mIoU, falls by no more than the gate allows.

    Nor may the masks, or the classes' probabilities, move by more than `MAX_MOVED` in the mean.

    None with the widest ranges of any photo, if that is enough. Else none with ranges that hold fewer photos, by
    whichever of `SHARES` moves masks least. Else those layers that move the mask, or the classes' probabilities, most,
    each alone in 8 bits: as few as it takes, counted in doublings.

    Args:
        whole: the float net as an ONNX file.
        path: a file to write to, of the runtime's ending.
        kind: the runtime.
        layers: by name.
        write: writes a file, given what stays in float, and the share of photos that ranges hold (see `largest_of`).

    Returns:
        the layers, and that share.
    """
    float_net = OnnxRuntimeRunner(whole)
    gate, loss_of = samples.gate, samples.gate.loss_beside(float_net)
    images = [float_net.resized(image) for image in samples.photos[:RANKED_ON]]
    expected = _probabilities(float_net, images)
    name, measure = f"int8 in {kind.runtime}", "mIoU" if float_net.labels else "maxF"

    def cost() -> _Cost:
        runner = kind(path)
        return _Cost(loss_of(runner), _moved(runner, images, expected))

    def is_little(found: _Cost) -> bool:
        return found.loss <= gate.max_loss and found.moved <= MAX_MOVED

    costs = {}
    for share in SHARES:
        write(path, (), share)
        costs[share] = cost()
        how = f"ranges of {share:.0%} of photos"
        log.info("%s: %s falls by %s on %s by %s", name, measure, costs[share], gate, how)
        if share == WIDEST and is_little(costs[share]):
            break
    share = min(costs, key=lambda share: (max(costs[share].loss, gate.max_loss), costs[share].moved))
    if is_little(found := costs[share]):
        return [], share
    ranking = _ranking(path, kind, layers, lambda floats: write(path, floats, share), images, expected)
    floats: list[str] = []
    while not is_little(found) and len(floats) < len(ranking):
        floats = ranking[: max(1, 2 * len(floats))]
        write(path, floats, share)
        found = cost()
        log.info("%s: %d of %d layers in float: %s falls by %s", name, len(floats), len(layers), measure, found)
    if found.loss > gate.max_loss:
        beyond = found.loss - gate.max_loss
        log.warning("%s: %s falls by %.4f, %.4f more than export.max_loss allows", name, measure, found.loss, beyond)
    log.info("%s: these layers stay in float: %s", name, ", ".join(floats))
    return floats, share


def range_of(lowest: ArrayLike, highest: ArrayLike, share: float) -> tuple[np.ndarray, np.ndarray]:
    """From where to where the values of this share of photos go, at each end by itself; see `largest_of`."""
    return -largest_of(-np.asarray(lowest), share), largest_of(highest, share)


def largest_of(values: ArrayLike, share: float) -> np.ndarray:
    """The largest value of this share of photos, given (photos, ...), each photo's own largest."""
    return np.quantile(np.asarray(values), share, axis=0, method="lower")


@dataclass(frozen=True)
class _Cost:
    """How far the score falls, and how far the masks move in the mean."""

    loss: float
    moved: float

    def __str__(self) -> str:
        return f"{self.loss:.4f} (masks move by {self.moved:.4f} in the mean)"


def _ranking(
    path: Path,
    kind: type[FileRunner],
    layers: Sequence[str],
    write: Callable[[Collection[str]], None],
    images: Sequence[np.ndarray],
    expected: np.ndarray,
) -> list[str]:
    """Layers by how far each, alone in 8 bits, moves the mask, the one that moves it most first."""
    moved = {}
    for layer in track(layers, "trying each layer in 8 bits"):
        write([other for other in layers if other != layer])
        moved[layer] = _moved(kind(path), images, expected)
    return sorted(moved, key=moved.__getitem__, reverse=True)


def _moved(runner: FileRunner, images: Sequence[np.ndarray], expected: np.ndarray) -> float:
    return float(np.abs(_probabilities(runner, images) - expected).mean())


def _probabilities(runner: FileRunner, images: Sequence[np.ndarray]) -> np.ndarray:
    answers = np.stack([runner.infer(image) for image in images])
    return np.stack([class_shares(logits) for logits in answers]) if runner.labels else answers
