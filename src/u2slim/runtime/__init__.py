"""Runtimes behind one interface. Nothing here needs torch but what is made of a net of torch's."""

import importlib
import importlib.util
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from u2slim.errors import UserError, missing_extra
from u2slim.images.preprocess import Preprocess
from u2slim.runtime.onnx_reader import Graph
from u2slim.runtime.onnx_runners import OnnxRuntimeRunner, OpenCVRunner, OpenVINORunner
from u2slim.runtime.runner import Runner, latency
from u2slim.sizes import Size, sides

if TYPE_CHECKING:
    from u2slim.models import Net

__all__ = [
    "ONNX_RUNTIMES",
    "OnnxRuntimeRunner",
    "OpenCVRunner",
    "OpenVINORunner",
    "Runner",
    "check_runtime",
    "fastest_runtime",
    "installed_runtimes",
    "latency",
    "net_runner",
    "onnx_runner",
]

ONNX_RUNTIMES: dict[str, type[OpenCVRunner | OnnxRuntimeRunner | OpenVINORunner]] = {
    "opencv": OpenCVRunner,
    "onnxruntime": OnnxRuntimeRunner,
    "openvino": OpenVINORunner,
}
# Up to so many photos, the quickest first: OpenVINO takes longest to load, and least time for a photo.
FASTEST: tuple[tuple[float, tuple[str, ...]], ...] = (
    (3, ("onnxruntime", "opencv")),
    (12, ("onnxruntime", "openvino", "opencv")),
    (math.inf, ("openvino", "onnxruntime", "opencv")),
)
OPTIONAL_RUNTIMES = ("onnxruntime", "openvino")  # those that a user may lack, each an extra of the same name


def onnx_runner(
    path: Path,
    runtime: str = "auto",
    stretch: bool = True,
    streams: int = 1,
    threads: int | None = None,
    size: Size | None = None,
    preprocess: Preprocess | None = None,
    device: str | None = None,
    graph: Graph | None = None,
) -> Runner:
    """An ONNX file in a runtime, by default OpenCV; see `OnnxRunner`."""
    check_runtime(runtime)
    if runtime == "torch":
        raise UserError(f"runtime=torch cannot run {path}: ONNX files run in {', '.join(ONNX_RUNTIMES)}.")
    kind = ONNX_RUNTIMES["opencv" if runtime == "auto" else runtime]
    return kind(path, stretch, streams, threads, size, preprocess, device or "cpu", graph)


def net_runner(
    net: "Net",
    size: Size,
    runtime: str = "auto",
    stretch: bool = True,
    streams: int = 1,
    threads: int | None = None,
    device: str | None = None,
) -> Runner:
    """A net in a runtime, by default torch; for any other it is exported first, to a file that does not stay."""
    check_runtime(runtime)
    if runtime in ("auto", "torch"):
        from u2slim.runtime.torch_runner import TorchRunner

        return TorchRunner(net, sides(size, "size"), stretch, device, streams, threads)
    from u2slim.runtime.onnx_writer import write_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        write_onnx(net, size, path)
        return onnx_runner(path, runtime, stretch, streams, threads, device=device)


def fastest_runtime(photos: float) -> str:
    """The installed runtime that takes an ONNX file and so many photos to their masks in the least time.

    That includes loading (benchmarks/results/runtimes.md).
    """
    wanted, installed = next(names for most, names in FASTEST if photos <= most), installed_runtimes()
    return next(name for name in wanted if name in installed)


def installed_runtimes() -> list[str]:
    """Those that run ONNX files."""
    return [name for name in ONNX_RUNTIMES if name not in OPTIONAL_RUNTIMES or importlib.util.find_spec(name)]


def check_runtime(runtime: str) -> None:
    """Raise a UserError for a runtime that is not known or not installed."""
    if runtime not in ("auto", "torch", *ONNX_RUNTIMES):
        raise UserError(f"runtime={runtime} is not known; choose auto, torch, {', '.join(ONNX_RUNTIMES)}.")
    if runtime in OPTIONAL_RUNTIMES:
        try:
            importlib.import_module(runtime)
        except ImportError as error:
            raise missing_extra(f"runtime={runtime}", runtime, runtime) from error
