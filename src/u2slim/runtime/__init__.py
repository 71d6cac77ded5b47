"""Runtimes behind one interface."""

import importlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from u2slim.errors import UserError
from u2slim.runtime.onnx_segmenters import OnnxRuntimeSegmenter, OpenCVSegmenter, OpenVINOSegmenter
from u2slim.runtime.segmenter import Segmenter, TorchSegmenter
from u2slim.sizes import Size, sides
from u2slim.zoo import checkpoints

__all__ = [
    "ONNX_RUNTIMES",
    "OnnxRuntimeSegmenter",
    "OpenCVSegmenter",
    "OpenVINOSegmenter",
    "Segmenter",
    "TorchSegmenter",
    "check_runtime",
    "net_segmenter",
    "onnx_segmenter",
    "open_segmenter",
]

ONNX_RUNTIMES = {"opencv": OpenCVSegmenter, "onnxruntime": OnnxRuntimeSegmenter, "openvino": OpenVINOSegmenter}
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}  # what installs those that a user may lack


def open_segmenter(
    checkpoint: str | None,
    model: Mapping[str, Any] | None = None,
    init: Callable[[nn.Module], nn.Module] | None = None,
    size: Size = 320,
    runtime: str = "auto",
    stretch: bool = True,
    streams: int = 1,
) -> Segmenter:
    """A segmenter from a training checkpoint, an ONNX file, or a net that `init` fills, for so many threads at once.

    Raises:
        UserError: the file is missing or not what its ending says, or the runtime cannot run it.
    """
    if checkpoint is not None and str(checkpoint).lower().endswith(".onnx"):
        return onnx_segmenter(checkpoints.resolve(checkpoint), runtime, stretch, streams)
    net, side = checkpoints.load_net(checkpoint, model, init, size)
    return net_segmenter(net, side, runtime, stretch, streams)


def onnx_segmenter(path: Path, runtime: str = "auto", stretch: bool = True, streams: int = 1) -> Segmenter:
    """An ONNX file in a runtime, by default OpenCV."""
    check_runtime(runtime)
    if runtime == "torch":
        raise UserError(f"runtime=torch cannot run {path}: ONNX files run in {', '.join(ONNX_RUNTIMES)}.")
    return ONNX_RUNTIMES["opencv" if runtime == "auto" else runtime](path, stretch, streams)


def net_segmenter(
    net: nn.Module, size: Size, runtime: str = "auto", stretch: bool = True, streams: int = 1
) -> Segmenter:
    """A net in a runtime, by default torch; for any other it is exported first, to a file that does not stay."""
    check_runtime(runtime)
    if runtime in ("auto", "torch"):
        return TorchSegmenter(net, sides(size, "size"), stretch, streams=streams)
    from u2slim.runtime.onnx_writer import write_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        write_onnx(net, size, path)
        return ONNX_RUNTIMES[runtime](path, stretch, streams)


def check_runtime(runtime: str) -> None:
    """Raise a UserError for a runtime that is not known or not installed."""
    if runtime not in ("auto", "torch", *ONNX_RUNTIMES):
        raise UserError(f"runtime={runtime} is not known; choose auto, torch, {', '.join(ONNX_RUNTIMES)}.")
    if runtime in PACKAGES:
        try:
            importlib.import_module(runtime)
        except ImportError as error:
            raise UserError(f"runtime={runtime} needs its package: pip install {PACKAGES[runtime]}.") from error
