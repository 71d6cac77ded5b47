"""Nets in whole numbers: 8 bits for weights and activations, but for the layers that a measured ranking keeps."""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator
from rich.progress import track

from u2slim.export.calibration import Samples, input_blobs
from u2slim.export.float_layers import SHARES, WIDEST, fewest_in_float, range_of
from u2slim.runtime.onnx_runners import OnnxRuntimeRunner

Feed = dict[str, np.ndarray]


def quantise(whole: Path, small: Path, samples: Samples) -> None:
    """Write the float file `whole` with 8-bit weights (per channel) and activations as `small`.

    See `fewest_in_float` for which layers stay in float32.
    """
    layers, blobs = _layers(whole), input_blobs(whole, samples.photos)
    with TemporaryDirectory() as folder:
        files = {share: Path(folder) / f"{share}.json" for share in SHARES}

        def write(path: Path, floats: Collection[str], share: float) -> None:
            ranges = files[share]
            if share != WIDEST and not ranges.is_file():
                _narrow(whole, files, blobs)
            _quantise(whole, path, blobs, ranges, [node for layer in floats for node in layers[layer]])

        write(small, *fewest_in_float(whole, small, OnnxRuntimeRunner, list(layers), write, samples))


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


def _quantise(whole: Path, path: Path, blobs: Sequence[Feed], ranges: Path, exclude: Sequence[str]) -> None:
    """Write the file; `ranges` is made of the inputs where it is not there yet."""
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
            nodes_to_exclude=exclude,
            calibration_cache_path=ranges,
            extra_options={"QuantizeBias": False},  # no runtime is faster by it, and the file larger
        )
    finally:
        logging.getLogger().disabled = disabled


def _narrow(whole: Path, files: Mapping[float, Path], blobs: Sequence[Feed]) -> None:
    """Write the files of ranges that hold fewer photos, by their share, like that of the widest."""
    with TemporaryDirectory() as folder:
        calibrator = create_calibrator(whole, ["Conv"], str(Path(folder) / "augmented.onnx"))
        extremes: dict[str, list[tuple[float, float]]] = {}
        for blob in track(blobs, "ranges of each photo"):
            calibrator.calibrate_tensors_range = None  # or it would take the widest of all so far
            calibrator.collect_data(_Reader([blob]))
            for name, found in calibrator.compute_data().items():
                extremes.setdefault(name, []).append((float(np.min(found.lowest)), float(np.max(found.highest))))
            calibrator.clear_collected_data()
    content = json.loads(files[WIDEST].read_text())
    for share in files.keys() - {WIDEST}:
        for name, entry in content["data"].items():
            if name in extremes:
                lowest, highest = zip(*extremes[name], strict=True)
                low, high = range_of(lowest, highest, share)
                entry["lowest"]["data"], entry["highest"]["data"] = [float(low)], [float(high)]
        files[share].write_text(json.dumps(content))


class _Reader(CalibrationDataReader):
    def __init__(self, blobs: Sequence[Feed]):
        self.left: Iterator[Feed] = iter(blobs)

    def get_next(self) -> Feed | None:
        return next(self.left, None)
