"""Which layers of a net stay in float, where all of them in 8 bits cost too much."""

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from u2slim.export.calibration import Samples
from u2slim.images.masks import class_shares
from u2slim.runtime.file_runner import FileRunner
from u2slim.runtime.onnx_reader import read_graph
from u2slim.runtime.onnx_runners import OnnxRuntimeRunner

log = logging.getLogger(__name__)

RANKED_ON = 4  # photos: every layer is tried on each


def fewest_in_float(
    whole: Path,
    path: Path,
    kind: type[FileRunner],
    layers: Sequence[str],
    write: Callable[[Path, Collection[str], bool], None],
    samples: Samples,
) -> tuple[list[str], bool]:
    """The layers that must stay in float so that maxF, or of classes mIoU, falls by no more than the gate allows.

    None with the widest ranges of any photo, if that is enough. Else none with those of the median photo: some nets, as
    IS-Net, make activations twenty times as large of single photos. Else those that move the mask, or the classes'
    probabilities, most, each alone in 8 bits: as few as it takes, counted in doublings.

    Args:
        whole: the float net as an ONNX file.
        path: a file to write to, of the runtime's ending.
        kind: the runtime.
        layers: by name.
        write: writes a file, given what stays in float, and whether ranges are the widest rather than the medians.

    Returns:
        the layers, and whether ranges are the widest.
    """
    gate, loss_of = samples.gate, samples.gate.loss_beside(whole, kind)
    name, measure = f"int8 in {kind.runtime}", "mIoU" if read_graph(whole).labels else "maxF"
    losses = {}
    for widest in (True, False):
        write(path, (), widest)
        losses[widest] = loss_of(path)
        how = "the widest ranges" if widest else "the median photo's ranges"
        log.info("%s: %s falls by %.4f on %s by %s", name, measure, losses[widest], gate, how)
        if losses[widest] <= gate.max_loss:
            return [], widest
    widest = losses[True] <= losses[False]
    ranking = _ranking(whole, path, kind, layers, lambda at, floats: write(at, floats, widest), samples)
    floats: list[str] = []
    loss = losses[widest]
    while loss > gate.max_loss and len(floats) < len(ranking):
        floats = ranking[: max(1, 2 * len(floats))]
        write(path, floats, widest)
        loss = loss_of(path)
        log.info("%s: %d of %d layers in float: %s falls by %.4f", name, len(floats), len(layers), measure, loss)
    if loss > gate.max_loss:
        beyond = loss - gate.max_loss
        log.warning("%s: %s falls by %.4f, %.4f more than export.max_loss allows", name, measure, loss, beyond)
    log.info("%s: these layers stay in float: %s", name, ", ".join(floats))
    return floats, widest


def _ranking(
    whole: Path,
    path: Path,
    kind: type[FileRunner],
    layers: Sequence[str],
    write: Callable[[Path, Collection[str]], None],
    samples: Samples,
) -> list[str]:
    """Layers by how far each, alone in 8 bits, moves the mask, the one that moves it most first."""
    float_net = OnnxRuntimeRunner(whole)
    images = [float_net.resized(image) for image in samples.photos[:RANKED_ON]]
    expected = _probabilities(float_net, images)
    moved = {}
    for layer in track(layers, "trying each layer in 8 bits"):
        write(path, [other for other in layers if other != layer])
        runner = kind(path)
        moved[layer] = float(np.abs(_probabilities(runner, images) - expected).mean())
    return sorted(moved, key=moved.__getitem__, reverse=True)


def _probabilities(runner: FileRunner, images: Sequence[np.ndarray]) -> np.ndarray:
    answers = np.stack([runner.infer(image) for image in images])
    return np.stack([class_shares(logits) for logits in answers]) if runner.labels else answers
