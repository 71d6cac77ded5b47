"""The runtimes of phones, on this machine: files of their own formats in ncnn and LiteRT."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from u2slim.errors import UserError
from u2slim.images.preprocess import Preprocess
from u2slim.runtime.file_runner import FileRunner
from u2slim.runtime.onnx_reader import Graph
from u2slim.runtime.phone_files import layers_and_weights, read_litert, read_ncnn
from u2slim.sizes import Size


class NcnnRunner(FileRunner):
    """Runs a `.param` file, with its `.bin` and `.json` beside it, in ncnn; on the processor, in float32 or 8 bits."""

    runtime = "ncnn"

    @staticmethod
    def read(path: Path, size: Size | None, preprocess: Preprocess | None) -> Graph:
        return read_ncnn(path, size)

    def load(self, data: bytes, streams: int, threads: int | None) -> None:
        import ncnn

        if self.device != "cpu":
            raise self.no_device("its Vulkan is not used here")
        self.net = ncnn.Net()
        options = self.net.opt
        options.num_threads = threads or ncnn.get_omp_num_threads()
        options.openmp_blocktime = 0  # or threads spin between layers, twenty times as slow where others compute, too
        # float16 and bfloat16 are further from torch than the tolerance; what is stored so is widened.
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_packed = options.use_bf16_storage = False
        with tempfile.TemporaryDirectory() as folder:  # a net that is loaded from memory continues using that memory
            for name, content in zip(("param", "bin"), layers_and_weights(data), strict=True):
                (Path(folder) / name).write_bytes(content)
            if self.net.load_param(f"{folder}/param") or self.net.load_model(f"{folder}/bin"):
                raise UserError("ncnn cannot load the net: it was made for another version, export it again.")

    def run(self, blob_B3HW: np.ndarray) -> np.ndarray:
        answers = []
        for blob_3HW in blob_B3HW:
            with self.net.create_extractor() as extractor:
                extractor.input(self.input, own_mat(blob_3HW))
                status, answer = extractor.extract(self.output)
                if status:
                    raise UserError(f"ncnn cannot compute the net (status {status}).")
                answers.append(np.array(answer))
        return np.stack(answers)


def own_mat(blob_3HW: np.ndarray) -> Any:
    """An `ncnn.Mat` in ncnn's own memory: a first layer that works in place crashes on any other."""
    import ncnn

    return ncnn.Mat(blob_3HW).clone()


class LiteRTRunner(FileRunner):
    """Runs a `.tflite` file in LiteRT, with XNNPACK, on the processor."""

    runtime = "litert"

    @staticmethod
    def read(path: Path, size: Size | None, preprocess: Preprocess | None) -> Graph:
        return read_litert(path, size)

    def load(self, data: bytes, streams: int, threads: int | None) -> None:
        if self.device != "cpu":
            raise self.no_device("it needs a phone's delegate")
        self.data, self.threads_each = data, threads
        self._interpreter()

    def run(self, blob_B3HW: np.ndarray) -> np.ndarray:
        interpreter = self._interpreter()
        (source,), target = interpreter.get_input_details(), interpreter.get_output_details()[0]
        answers = []
        for blob_3HW in blob_B3HW:
            interpreter.set_tensor(source["index"], _narrowed(blob_3HW.transpose(1, 2, 0)[None], source))
            interpreter.invoke()
            answers.append(_widened(interpreter.get_tensor(target["index"]), target)[0].transpose(2, 0, 1))
        return np.stack(answers)

    def _interpreter(self):  # type: ignore[no-untyped-def]  # of a package without types
        """This thread's own, as one holds the values of one call."""
        if not hasattr(self.own, "interpreter"):
            from ai_edge_litert.interpreter import Interpreter

            self.own.interpreter = Interpreter(model_content=self.data, num_threads=self.threads_each)
            self.own.interpreter.allocate_tensors()
        return self.own.interpreter


def _narrowed(values: np.ndarray, details: dict) -> np.ndarray:
    """As the file takes it: whole numbers where its input is in 8 bits."""
    kind = details["dtype"]
    if kind == np.float32:
        return values
    scale, zero = details["quantization"]
    limits = np.iinfo(kind)
    return np.clip(np.round(values / scale + zero), limits.min, limits.max).astype(kind)


def _widened(values: np.ndarray, details: dict) -> np.ndarray:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)
