"""Nets of ncnn in 8 bits: weights per output channel, and the input of each convolution in one range.

ncnn's own tools for it come with no package, so this writes what `ncnn2int8` writes: symmetric, 127 for the largest.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.progress import track

from u2slim.export.calibration import Samples
from u2slim.export.float_layers import fewest_in_float, largest_of
from u2slim.runtime.phone_files import write_ncnn_files
from u2slim.runtime.phone_runners import NcnnRunner, own_mat

log = logging.getLogger(__name__)

_WHOLE, _INT8 = 0, 0x000D4B38  # ncnn's marks before weights in float32 and in 8 bits
_KINDS = {"Convolution": 2, "ConvolutionDepthWise": 1}  # and what ncnn2int8 writes as parameter 8 of each
_MAX = 127


@dataclass
class _Layer:
    """A line of a .param file, and the arrays of the .bin file that belong to it."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    settings: list[str]
    arrays: list[bytes] = field(default_factory=list)

    def number(self, key: int, usual: int = 0) -> int:
        found = [text.partition("=")[2] for text in self.settings if text.startswith(f"{key}=")]
        return int(found[0]) if found else usual

    def line(self) -> str:
        counts = str(len(self.inputs)), str(len(self.outputs))
        return " ".join([self.kind, self.name, *counts, *self.inputs, *self.outputs, *self.settings])


def quantise_ncnn(
    whole: Path, layers: str, weights: bytes, samples: Samples, metadata: Mapping[str, str]
) -> tuple[str, bytes]:
    """The layers and weights of a float net in 8 bits, but for those convolutions that stay in float.

    See `fewest_in_float` for which those are.

    Args:
        whole: the ONNX file of the same net, in float32, beside which its masks are held.
        layers, weights: ncnn's two files of it, in float32.
    """
    head, net = _parsed(layers, weights)
    names = [layer.name for layer in net if layer.kind in _KINDS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.param"
        write_ncnn_files(path, layers, weights, metadata)
        ranges = _ranges(path, net, samples.photos)

        def write(at: Path, floats: Collection[str], share: float) -> None:
            largest = {blob: float(largest_of(values, share)) for blob, values in ranges.items()}
            write_ncnn_files(at, *_written(head, net, largest, floats), metadata)

        write(path, *fewest_in_float(whole, path, NcnnRunner, names, write, samples))
        return path.read_text(), path.with_suffix(".bin").read_bytes()


def _parsed(layers: str, weights: bytes) -> tuple[list[str], list[_Layer]]:
    lines, net, at = layers.splitlines(), [], 0
    for line in lines[2:]:
        kind, name, given, made, *rest = line.split()
        first, second = int(given), int(given) + int(made)
        layer = _Layer(kind, name, rest[:first], rest[first:second], rest[second:])
        for size, marked in _sizes(layer):
            length = 4 * (size + marked)
            if marked and int.from_bytes(weights[at : at + 4], "little") != _WHOLE:
                raise ValueError(f"the weight of {name} is not in float32")
            layer.arrays.append(weights[at : at + length])
            at += length
        net.append(layer)
    assert at == len(weights), "every layer's numbers are known"
    return lines[:2], net


def _sizes(layer: _Layer) -> Iterator[tuple[int, bool]]:
    """How many numbers in float32 belong to a layer, and whether a mark is before them."""
    if layer.kind in _KINDS:
        yield layer.number(6), True
        if layer.number(5):
            yield layer.number(0), False
    if layer.kind == "MemoryData":
        yield int(np.prod([layer.number(key) or 1 for key in (0, 1, 11, 2)])), False


def _ranges(path: Path, net: Sequence[_Layer], photos: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """The largest magnitude in each photo of each value that a convolution reads."""
    import ncnn

    runner = NcnnRunner(path)
    runner.net.opt.lightmode = False  # or values would be gone when the next layer has read them
    loaded = ncnn.Net()
    loaded.opt = runner.net.opt
    loaded.load_param(str(path))
    loaded.load_model(str(path.with_suffix(".bin")))
    blobs = sorted({layer.inputs[0] for layer in net if layer.kind in _KINDS})
    found: dict[str, list[float]] = {blob: [] for blob in blobs}
    for photo in track(photos, "ranges of each photo"):
        blob_3HW = runner.blob(runner.resized(photo))[0]
        with loaded.create_extractor() as extractor:
            extractor.input(runner.input, own_mat(blob_3HW))
            for blob in blobs:
                found[blob].append(float(np.abs(np.array(extractor.extract(blob)[1])).max()))
    return found


def _written(
    head: list[str], net: Sequence[_Layer], largest: Mapping[str, float], floats: Collection[str]
) -> tuple[str, bytes]:
    lines, content = list(head), []
    for layer in net:
        if layer.kind not in _KINDS or layer.name in floats:
            lines.append(layer.line())
            content += layer.arrays
            continue
        lines.append(f"{layer.line()} 8={_KINDS[layer.kind]}")
        rows = layer.number(7, 1) if layer.kind == "ConvolutionDepthWise" else layer.number(0)
        weight_RK = np.frombuffer(layer.arrays[0][4:], np.float32).reshape(rows, -1)
        scale_R = _MAX / np.maximum(np.abs(weight_RK).max(1), 1e-12).astype(np.float32)
        codes = np.round(weight_RK * scale_R[:, None]).clip(-_MAX, _MAX).astype(np.int8).tobytes()
        scale = np.float32(_MAX / max(largest[layer.inputs[0]], 1e-12))
        content += [_INT8.to_bytes(4, "little"), codes, bytes(-len(codes) % 4), *layer.arrays[1:]]
        content += [scale_R.tobytes(), scale.tobytes()]
    return "\n".join(lines) + "\n", b"".join(content)
