"""One interface from a photo to its mask, whatever runs the net."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from src.errors import UserError
from src.masks import enlarge, minmax
from src.preprocess import Preprocess


class Segmenter(ABC):
    """Calls a net on photos of any size.

    Args:
        size: (height, width) that the net takes.
        stretch: stretch each mask to 0..1 at the net's resolution, as U2-Net's own test script does.
    """

    runtime: str

    def __init__(self, size: tuple[int, int], stretch: bool = True):
        self.size, self.stretch = size, stretch

    def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
        """The soft mask (H, W) float32 in 0..1 of an RGB uint8 photo, at the photo's own size."""
        small = self.small_mask(image_HW3)
        return enlarge(minmax(small) if self.stretch else small, image_HW3.shape[:2])

    def small_mask(self, image_HW3: np.ndarray) -> np.ndarray:
        """The net's own mask (h, w) float32 of a photo, at the net's resolution and not stretched.

        Raises:
            UserError: the net gives NaN or infinite values for this photo.
        """
        # In float and without antialiasing, as U2-Net's own test script resizes.
        small = cv2.resize(image_HW3.astype(np.float32), self.size[::-1], interpolation=cv2.INTER_LINEAR)
        mask = self.probability(small)
        if not np.isfinite(mask).all():
            raise UserError(f"the net gives NaN or infinite values on {self.runtime}; no mask was made.")
        return mask

    @abstractmethod
    def fingerprint(self) -> str:
        """The same for segmenters that give the same masks, up to rounding."""

    @abstractmethod
    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        """The net's own mask (H, W) float32, not stretched, of an RGB image, 0..255, of `self.size`."""


class TorchSegmenter(Segmenter):
    """Runs a net that returns logits `[fused, ...]` with PyTorch, by default on a GPU where there is one."""

    runtime = "torch"

    def __init__(self, net: nn.Module, size: tuple[int, int], stretch: bool = True, device: str | None = None):
        super().__init__(size, stretch)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.net = nn.Sequential(Preprocess(), net).to(self.device).eval()

    def fingerprint(self) -> str:
        total = hashlib.sha256(f"{self.net} {self.size} {self.device.type}".encode())
        for tensor in self.net.state_dict().values():
            total.update(tensor.cpu().contiguous().numpy())
        return total.hexdigest()

    @torch.inference_mode()
    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(image_HW3).to(self.device).permute(2, 0, 1)[None]
        return self.net(image)[0][0, 0].sigmoid().cpu().numpy()


class OnnxSegmenter(Segmenter):
    """What the ONNX runtimes share: reading the file's metadata and feeding the input it expects.

    A file of another project is taken to be of the ecosystem's kind: ImageNet-normalised input, first output.
    """

    def __init__(self, path: str | Path, stretch: bool = True):
        self.input, self.output, size, embedded = _describe(Path(path))
        self.digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        super().__init__(size, stretch)
        self.preprocess = None if embedded else Preprocess()

    def fingerprint(self) -> str:
        return f"{self.runtime} {self.digest}"

    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        blob = np.ascontiguousarray(image_HW3.transpose(2, 0, 1)[None], dtype=np.float32)
        if self.preprocess is not None:
            blob = self.preprocess(torch.from_numpy(blob)).numpy()
        return np.asarray(self.run(blob), dtype=np.float32).reshape(self.size)

    @abstractmethod
    def run(self, blob_13HW: np.ndarray) -> np.ndarray:
        """The fused probability of one prepared input."""


class OpenCVSegmenter(OnnxSegmenter):
    """Runs an ONNX file with OpenCV's dnn module."""

    runtime = "opencv"

    def __init__(self, path: str | Path, stretch: bool = True):
        super().__init__(path, stretch)
        try:
            self.net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise UserError(f"OpenCV {cv2.__version__} cannot load {path}: {error.err or error}") from error
        # Winograd convolutions are about 1.3 times as fast and put single pixels 1.2e-4 off, past our promise.
        self.net.enableWinograd(False)
        self.names = self.net.getUnconnectedOutLayersNames()

    def run(self, blob_13HW: np.ndarray) -> np.ndarray:
        self.net.setInput(blob_13HW)
        return self.net.forward(self.output if self.output in self.names else self.names[0])


class OnnxRuntimeSegmenter(OnnxSegmenter):
    """Runs an ONNX file with onnxruntime."""

    runtime = "onnxruntime"

    def __init__(self, path: str | Path, stretch: bool = True):
        import onnxruntime

        super().__init__(path, stretch)
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, blob_13HW: np.ndarray) -> np.ndarray:
        return self.session.run([self.output], {self.input: blob_13HW})[0]


class OpenVINOSegmenter(OnnxSegmenter):
    """Runs an ONNX file with OpenVINO on the CPU."""

    runtime = "openvino"

    def __init__(self, path: str | Path, stretch: bool = True):
        try:
            import openvino
        except ImportError as error:
            raise UserError("runtime=openvino needs its package: pip install openvino.") from error
        super().__init__(path, stretch)
        # Without the hint it rounds to bfloat16 where the processor can.
        self.net = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(self, blob_13HW: np.ndarray) -> np.ndarray:
        return self.net(blob_13HW)[self.net.output(self.output)]


def _describe(path: Path) -> tuple[str, str, tuple[int, int], bool]:
    """Input name, first output name, (height, width), and whether the file normalises its input itself."""
    import onnx

    try:
        model = onnx.load(path)
        (entry,) = model.graph.input
        _, _, height, width = (d.dim_value for d in entry.type.tensor_type.shape.dim)
        metadata = {item.key: item.value for item in model.metadata_props}
        embedded = metadata.get("u2slim.preprocess") == "embedded"
        return entry.name, model.graph.output[0].name, (height or 320, width or 320), embedded
    except Exception as error:  # protobuf and onnx raise several types for a damaged or foreign file
        raise UserError(
            f"{path} ({path.stat().st_size / 1e6:.1f} MB) is not an ONNX net with one image input: truncated, "
            f"damaged or of another kind. Export it again with export.py. [{type(error).__name__}]"
        ) from error
