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
from u2slim.runtime.onnx_runners import BFloat16OpenVINORunner, OnnxRuntimeRunner, OpenCVRunner, OpenVINORunner
from u2slim.runtime.phone_runners import LiteRTRunner, NcnnRunner
from u2slim.runtime.runner import Runner, latency
from u2slim.sizes import Size, sides

if TYPE_CHECKING:
    from u2slim.models import Net

__all__ = [
    "ONNX_RUNTIMES",
    "PHONE_ENDINGS",
    "PHONE_RUNTIMES",
    "ROUNDING_RUNTIMES",
    "LiteRTRunner",
    "NcnnRunner",
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
    "phone_runner",
]

ONNX_RUNTIMES: dict[str, type[OpenCVRunner | OnnxRuntimeRunner | OpenVINORunner]] = {
    "opencv": OpenCVRunner,
    "onnxruntime": OnnxRuntimeRunner,
    "openvino": OpenVINORunner,
}
# These round what they compute with. Nothing chooses one unasked, and no file is proved in one.
ROUNDING_RUNTIMES: dict[str, type[OpenVINORunner]] = {"openvino-bf16": BFloat16OpenVINORunner}
# Up to so many photos, the quickest first: OpenVINO takes longest to load, and least time for a photo.
FASTEST: tuple[tuple[float, tuple[str, ...]], ...] = (
    (3, ("onnxruntime", "opencv")),
    (12, ("onnxruntime", "openvino", "opencv")),
    (math.inf, ("openvino", "onnxruntime", "opencv")),
)
PHONE_RUNTIMES: dict[str, type[NcnnRunner | LiteRTRunner]] = {"ncnn": NcnnRunner, "litert": LiteRTRunner}
# Those that a user may lack, each an extra of its name before any dash, and the module that it brings.
OPTIONAL_RUNTIMES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "openvino-bf16": "openvino",
    "ncnn": "ncnn",
    "litert": "ai_edge_litert",
}
PHONE_ENDINGS = {".param": "ncnn", ".tflite": "litert"}


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
    _refuse_phones(runtime, path)
    if runtime == "torch":
        raise UserError(f"runtime=torch cannot run {path}: ONNX files run in {', '.join(ONNX_RUNTIMES)}.")
    kind = (ONNX_RUNTIMES | ROUNDING_RUNTIMES)["opencv" if runtime == "auto" else runtime]
    return kind(path, stretch, streams, threads, size, preprocess, device or "cpu", graph)


def phone_runner(
    path: Path,
    runtime: str = "auto",
    stretch: bool = True,
    streams: int = 1,
    threads: int | None = None,
    size: Size | None = None,
    device: str | None = None,
) -> Runner:
    """A `.param` or `.tflite` file in the one runtime that it is for."""
    own = PHONE_ENDINGS[path.suffix.lower()]
    if runtime not in ("auto", own):
        raise UserError(f"runtime={runtime} cannot run {path}: it runs in {own}.")
    check_runtime(own)
    return PHONE_RUNTIMES[own](path, stretch, streams, threads, size, None, device or "cpu")


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
    _refuse_phones(runtime, net.name)
    if runtime in ("auto", "torch"):
        from u2slim.runtime.torch_runner import TorchRunner

        return TorchRunner(net, sides(size, "size"), stretch, device, streams, threads)
    from u2slim.runtime.onnx_writer import write_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        write_onnx(net, size, path)
        return onnx_runner(path, runtime, stretch, streams, threads, device=device)


def _refuse_phones(runtime: str, net: object) -> None:
    if runtime in PHONE_RUNTIMES:
        checkpoint = net if isinstance(net, Path) else "FILE"
        raise UserError(
            f"runtime={runtime} runs files of its own kind, not {net}: make one with export.py "
            f"checkpoint={checkpoint} export.target={runtime}."
        )


def fastest_runtime(photos: float) -> str:
    """The installed runtime that takes an ONNX file and so many photos to their masks in the least time.

    That includes loading (benchmarks/results/runtimes.md).
    """
    wanted, installed = next(names for most, names in FASTEST if photos <= most), installed_runtimes()
    return next(name for name in wanted if name in installed)


def installed_runtimes() -> list[str]:
    """Those that run ONNX files."""
    return [
        name
        for name in ONNX_RUNTIMES
        if name not in OPTIONAL_RUNTIMES or importlib.util.find_spec(OPTIONAL_RUNTIMES[name])
    ]


def check_runtime(runtime: str) -> None:
    """Raise a UserError for a runtime that is not known or not installed."""
    known = *ONNX_RUNTIMES, *ROUNDING_RUNTIMES, *PHONE_RUNTIMES
    if runtime not in ("auto", "torch", *known):
        raise UserError(f"runtime={runtime} is not known; choose auto, torch, {', '.join(known)}.")
    if runtime in OPTIONAL_RUNTIMES:
        module = OPTIONAL_RUNTIMES[runtime]
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise missing_extra(f"runtime={runtime}", module.replace("_", "-"), runtime.partition("-")[0]) from error
