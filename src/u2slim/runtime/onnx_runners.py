"""ONNX files in the runtimes that run them."""

from pathlib import Path

import cv2
import numpy as np

from u2slim.errors import UserError
from u2slim.images.preprocess import Preprocess
from u2slim.runtime.file_runner import FileRunner
from u2slim.runtime.onnx_reader import Graph, read_graph
from u2slim.runtime.signal_stack import signal_stack_kept
from u2slim.sizes import Size


class OnnxRunner(FileRunner):
    """Runs an ONNX file."""

    @staticmethod
    def read(path: Path, size: Size | None, preprocess: Preprocess | None) -> Graph:
        return read_graph(path, size, preprocess)


class OpenCVRunner(OnnxRunner):
    """Runs an ONNX file with OpenCV's dnn module, with Winograd convolutions as OpenCV has them by default."""

    runtime = "opencv"
    winograd = True  # 1.4 to 1.9 times as fast, and single pixels up to 1.2e-4 off

    def check(self, graph: Graph) -> None:
        # upstream: not reported as far as known (seen with OpenCV 5.0.0); drop when 8-bit parity holds there
        if graph.precision == "int8" and int(cv2.__version__.partition(".")[0]) >= 5:
            raise UserError(
                f"OpenCV {cv2.__version__} computes nets in 8 bits wrongly: use runtime=onnxruntime or openvino, "
                "OpenCV 4, or the net in another precision."
            )

        if graph.precision == "fp16_compute":
            raise UserError(
                "OpenCV does not run nets that compute in float16: use runtime=onnxruntime or openvino, or make a file "
                "for it: export.py checkpoint=FILE export.precision=fp16."
            )

    def fingerprint(self) -> str:
        return super().fingerprint() + " winograd" * self.winograd

    def load(self, data: bytes, streams: int, threads: int | None) -> None:
        self.data = np.frombuffer(data, np.uint8)
        if self.device != "cpu" and (self.device != "cuda" or not cv2.cuda.getCudaEnabledDeviceCount()):
            raise self.no_device("cuda needs a card, and an OpenCV that is built for it")
        if threads is not None:
            cv2.setNumThreads(threads)

    def run(self, blob_B3HW: np.ndarray) -> np.ndarray:
        if not hasattr(self.own, "net"):
            self.own.net = cv2.dnn.readNetFromONNX(self.data)
            self.own.net.enableWinograd(self.winograd)
            if self.device == "cuda":
                self.own.net.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA)
                self.own.net.setPreferableTarget(cv2.dnn.DNN_TARGET_CUDA)
        names = self.own.net.getUnconnectedOutLayersNames()
        self.own.net.setInput(blob_B3HW)
        return self.own.net.forward(self.output if self.output in names else names[0])


class PlainOpenCVRunner(OpenCVRunner):
    """The same without Winograd, to compare a file with torch: what is off then is the file's own fault."""

    # upstream: https://github.com/opencv/opencv/issues/22578 (closed with this switch); drop when within 1e-4
    winograd = False


class OnnxRuntimeRunner(OnnxRunner):
    """Runs an ONNX file with onnxruntime."""

    runtime = "onnxruntime"

    def load(self, data: bytes, streams: int, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its errors come as exceptions, too
        if threads is not None:
            options.intra_op_num_threads = threads
        suffix = "ExecutionProvider"
        found = {name.removesuffix(suffix).lower(): name for name in onnxruntime.get_available_providers()}
        if self.device not in found:
            raise self.no_device("onnxruntime-gpu brings cuda", *found)
        # What a device cannot do is left to the processor.
        providers = list(dict.fromkeys((found[self.device], f"CPU{suffix}")))
        self.session = onnxruntime.InferenceSession(data, options, providers=providers)

    def run(self, blob_B3HW: np.ndarray) -> np.ndarray:
        return self.session.run([self.output], {self.input: blob_B3HW})[0]


class OpenVINORunner(OnnxRunner):
    """Runs an ONNX file with OpenVINO."""

    runtime = "openvino"
    # upstream: not reported as far as known (seen with openvino 2026.4); drop when two threads whose first calls fall
    # together no longer wait for each other for ever, about once in fifty times, in `tensor.data`
    begins_alone = True
    precision = "f32"  # without this hint it rounds to bfloat16 where the processor can

    def load(self, data: bytes, streams: int, threads: int | None) -> None:
        import openvino

        options = {"INFERENCE_PRECISION_HINT": self.precision} | ({"NUM_STREAMS": streams} if streams > 1 else {})
        device = self.device.upper()
        if self.threads is not None and device == "CPU":
            options["INFERENCE_NUM_THREADS"] = self.threads
        with signal_stack_kept():
            core = openvino.Core()
            if device != "CPU" and device not in core.available_devices:
                raise self.no_device("it needs its driver", *map(str.lower, core.available_devices))
            if self.precision == "bf16" and "BF16" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
                raise UserError(f"this {device} has no bfloat16: use runtime=openvino.")
            self.net = core.compile_model(core.read_model(data), device, options)

    def run(self, blob_B3HW: np.ndarray) -> np.ndarray:
        if not hasattr(self.own, "request"):
            self.own.request = self.net.create_infer_request()
        return self.own.request.infer({self.input: blob_B3HW})[self.net.output(self.output)]


class BFloat16OpenVINORunner(OpenVINORunner):
    """The same in bfloat16, which has 8 bits of precision: quicker on processors that have it, and no file's proof."""

    runtime = "openvino-bf16"
    precision = "bf16"
