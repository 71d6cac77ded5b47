"""Nets in whole numbers: 8 bits for weights and activations, but for the layers that a measured ranking keeps."""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator
from rich.progress import track

from u2slim.export.calibration import Gate
from u2slim.images.masks import class_shares
from u2slim.runtime.onnx_reader import read_graph

log = logging.getLogger(__name__)

Feed = dict[str, np.ndarray]
RANKED_ON = 4  # images: every layer is tried on each


def quantise(whole: Path, small: Path, blobs: Sequence[Feed], gate: Gate) -> list[str]:
    """Write the float file `whole` with 8-bit weights (per channel) and activations as `small`.

    The ranges of activations are the widest of any photo. Where maxF, or of classes mIoU, falls by more than the gate
    allows, those of the median photo are tried, too: some nets, as IS-Net, make activations twenty times as large of
    single photos. If that is not enough, layers are tried one by one in 8 bits, and those that move the mask, or the
    classes' probabilities, most stay in float32: as few as it takes, counted in doublings.

    Args:
        blobs: inputs like those to come, which tell the ranges of activations.

    Returns:
        the layers that stay in float32.
    """
    layers, loss_of = _layers(whole), gate.loss_beside(whole)
    measure = "mIoU" if read_graph(whole).labels else "maxF"
    floats: list[str] = []
    with TemporaryDirectory() as folder:
        ranges = Path(folder) / "ranges.json"

        def write(path: Path, floats: Collection[str] = ()) -> float:
            _quantise(whole, path, blobs, ranges, exclude=[node for layer in floats for node in layers[layer]])
            return loss_of(path)

        loss = write(small)
        if loss <= gate.max_loss:
            log.info("int8: %s falls by %.4f on %s", measure, loss, gate)
            return []
        log.info("int8: %s falls by %.4f on %s, more than %g", measure, loss, gate, gate.max_loss)
        widest = ranges.read_bytes()
        _take_medians(whole, ranges, blobs)
        by_medians = write(small)
        log.info("int8: %s falls by %.4f by the median photo's ranges", measure, by_medians)
        if by_medians <= gate.max_loss:
            return []
        if by_medians >= loss:
            ranges.write_bytes(widest)
        loss = min(loss, by_medians)
        ranking = _ranking(whole, layers, blobs, ranges)
        while loss > gate.max_loss and len(floats) < len(ranking):
            floats, before = ranking[: max(1, 2 * len(floats))], loss
            loss = write(small, floats)
            numbers = len(floats), len(ranking), measure, loss, before
            log.info("int8: %d of %d layers in float32: %s falls by %.4f, not %.4f", *numbers)
    if loss > gate.max_loss:
        beyond = loss - gate.max_loss
        log.warning("int8: %s falls by %.4f, %.4f more than export.max_loss allows", measure, loss, beyond)
    log.info("int8: these layers stay in float32: %s", ", ".join(floats))
    return floats


def _ranking(whole: Path, layers: Mapping[str, list[str]], blobs: Sequence[Feed], ranges: Path) -> list[str]:
    """Layers by how far each, alone in 8 bits, moves the probabilities, the one that moves them most first."""
    blobs = blobs[:RANKED_ON]
    moved: dict[str, float] = {}
    has_classes = bool(read_graph(whole).labels)
    expected = _probabilities(whole, blobs, has_classes)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "one.onnx"
        for layer in track(layers, "trying each layer in 8 bits"):
            _quantise(whole, path, blobs, ranges, only=layers[layer])
            pairs = zip(_probabilities(path, blobs, has_classes), expected, strict=True)
            moved[layer] = float(np.mean([np.abs(made - wanted).mean() for made, wanted in pairs]))
    return sorted(moved, key=moved.__getitem__, reverse=True)


def _probabilities(path: Path, blobs: Sequence[Feed], has_classes: bool) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [session.run(None, blob)[0][0] for blob in blobs]
    return [class_shares(output) for output in outputs] if has_classes else outputs


def _layers(path: Path) -> dict[str, list[str]]:
    """The nodes of the convolutions that stand for one convolution of the dense net, by its name."""
    layers: dict[str, list[str]] = {}
    for node in onnx.load(path).graph.node:
        if node.op_type == "Conv":
            layers.setdefault(_layer_of(node.name), []).append(node.name)
    return layers


def _layer_of(name: str) -> str:
    """The module that stands for the dense net's convolution: up to `conv`, or as a ResNet has several with `conv1`."""
    parts = name.split(".")
    for number, part in enumerate(parts):
        if part == "conv" and number:
            return ".".join(parts[:number])
        if re.fullmatch(r"conv\d+", part):
            return ".".join(parts[: number + 1])
    return name


def _quantise(
    whole: Path, path: Path, blobs: Sequence[Feed], ranges: Path, only: Sequence[str] = (), exclude: Sequence[str] = ()
) -> None:
    # upstream: https://github.com/microsoft/onnxruntime/pull/12729; drop when it warns by a logger of its own
    logging.getLogger().disabled, disabled = True, logging.getLogger().disabled  # it advises what was done already
    try:
        quantize_static(
            whole,
            path,
            _Reader(blobs),
            QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(only),
            nodes_to_exclude=list(exclude),
            calibration_cache_path=ranges,
            extra_options={"QuantizeBias": False},  # no runtime is faster by it, and the file larger
        )
    finally:
        logging.getLogger().disabled = disabled


def _take_medians(whole: Path, ranges: Path, blobs: Sequence[Feed]) -> None:
    """Make each range in the file, of onnxruntime's format, that of the median photo rather than of all."""
    with TemporaryDirectory() as folder:
        calibrator = create_calibrator(whole, ["Conv"], str(Path(folder) / "augmented.onnx"))
        extremes: dict[str, list[tuple[float, float]]] = {}
        for blob in track(blobs, "ranges of each photo"):
            calibrator.calibrate_tensors_range = None  # or it would take the widest of all so far
            calibrator.collect_data(_Reader([blob]))
            for name, found in calibrator.compute_data().items():
                extremes.setdefault(name, []).append((float(np.min(found.lowest)), float(np.max(found.highest))))
            calibrator.clear_collected_data()
    content = json.loads(ranges.read_text())
    for name, entry in content["data"].items():
        if name in extremes:
            lowest, highest = np.median(extremes[name], axis=0)
            entry["lowest"]["data"], entry["highest"]["data"] = [float(lowest)], [float(highest)]
    ranges.write_text(json.dumps(content))


class _Reader(CalibrationDataReader):
    def __init__(self, blobs: Sequence[Feed]):
        self.left: Iterator[Feed] = iter(blobs)

    def get_next(self) -> Feed | None:
        return next(self.left, None)
