"""Runtimes behind one interface."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from src import checkpoint as checkpoints
from src.errors import UserError
from src.runtime.segmenter import OnnxRuntimeSegmenter, OpenCVSegmenter, Segmenter, TorchSegmenter

__all__ = ["OnnxRuntimeSegmenter", "OpenCVSegmenter", "Segmenter", "TorchSegmenter", "open_segmenter"]

ONNX_RUNTIMES = {"opencv": OpenCVSegmenter, "onnxruntime": OnnxRuntimeSegmenter}


def open_segmenter(
    checkpoint: str | None,
    model: Mapping[str, Any] | None = None,
    init: Callable[[nn.Module], nn.Module] | None = None,
    size: int = 320,
    runtime: str = "auto",
    stretch: bool = True,
) -> Segmenter:
    """A segmenter from a training checkpoint, an ONNX file, or a net that `init` fills.

    `runtime=auto` runs checkpoints with torch and ONNX files with OpenCV.

    Raises:
        UserError: the file is missing or not what its ending says, or the runtime cannot run it.
    """
    if runtime not in ("auto", "torch", *ONNX_RUNTIMES):
        raise UserError(f"runtime={runtime} is not known; choose auto, torch, {', '.join(ONNX_RUNTIMES)}.")
    is_onnx = checkpoint is not None and str(checkpoint).lower().endswith(".onnx")
    if is_onnx != (runtime in ONNX_RUNTIMES) and runtime != "auto":
        raise UserError(
            f"runtime={runtime} cannot run {checkpoint or 'a net in memory'}: torch runs .ckpt files, "
            f"{' and '.join(ONNX_RUNTIMES)} run .onnx files (make one with export.py)."
        )
    if is_onnx:
        kind = ONNX_RUNTIMES["opencv" if runtime == "auto" else runtime]
        return kind(checkpoints.resolve(checkpoint), stretch)
    net, side = checkpoints.load_net(checkpoint, model, init, size)
    return TorchSegmenter(net, (side, side), stretch)
