"""The nets that come with the package: ONNX files in `nets/`, and in a clone the checkpoints that they were made of."""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from u2slim.images.preprocess import U2NET_PREPROCESS
from u2slim.repository import WEIGHTS
from u2slim.runtime.onnx_reader import KNOWN, Graph
from u2slim.runtime.packed import widened
from u2slim.sizes import DEFAULT_SIDE
from u2slim.zoo.fetch import NETS

DEFAULT = "lite-two-thirds"


@dataclass(frozen=True)
class Shipped:
    """A net of ours.

    Args:
        name: by which every command knows it.
        about: in a few words.
        ecssd: maxF and MAE on ECSSD 0001-0200 (docs/lab/compression.md), by which those before `lite-l` were chosen;
            None of a net that tells classes apart.
        checkpoint: whether `weights/` has it for training, in float32.
        precision: of the file.
        side: in pixels, of the square that it takes.
    """

    name: str
    about: str
    ecssd: tuple[float, float] | None
    checkpoint: bool = True
    precision: str = "fp32"
    side: int = DEFAULT_SIDE

    def graph(self) -> Graph | None:
        """What reading the file would tell, without the time it takes.

        None if it is not the file of the checksums, or tells classes apart.
        """
        if self.ecssd is None:
            return None
        return _proved(Graph(b"", "image", "mask", (self.side, self.side), None, self.precision), self.onnx)

    @property
    def onnx(self) -> Path:
        return NETS / f"{self.name}.onnx"

    @property
    def weights(self) -> Path | None:
        """The checkpoint, where there is a clone that has it."""
        path = WEIGHTS / f"{self.name}.ckpt"
        return path if self.checkpoint and path.is_file() else None


def published_graph(path: Path) -> Graph | None:
    """The same of `u2netp`, which comes with the package as rembg publishes it; None for any other file."""
    if path != NETS / "u2netp.onnx":
        return None
    size = DEFAULT_SIDE, DEFAULT_SIDE
    return _proved(Graph(b"", "input.1", "1959", size, replace(U2NET_PREPROCESS, size=size), "", source=KNOWN), path)


def _proved(graph: Graph, path: Path) -> Graph | None:
    data = path.read_bytes()
    if f"{sha256(data).hexdigest()}  {path.name}" not in (NETS / "SHA256SUMS").read_text().splitlines():
        return None
    return replace(graph, data=widened(data), proved=True)


_INT8 = "in 8 bits, for OpenCV 4, OpenVINO and onnxruntime"
_PACKED = "of the published lite net's weights, in {} bits, computed in float32"
SHIPPED = {
    net.name: net
    for net in (
        Shipped(
            "lite-two-thirds",
            "two thirds of the published lite net's weights, in float16",
            (0.945, 0.029),
            precision="fp16",
        ),
        Shipped("lite-half", "half of its weights, in float32", (0.943, 0.031)),
        Shipped("lite-dwsep", "depthwise-separable, in float32, for 256 pixels", (0.892, 0.057), side=256),
        Shipped("lite-l", "five sixths " + _PACKED.format("8"), (0.943, 0.031), False, "packed"),
        Shipped("lite-m", "nine tenths " + _PACKED.format("4 to 8"), (0.943, 0.031), False, "packed"),
        Shipped("lite-s", "three quarters " + _PACKED.format("3 to 8"), (0.935, 0.033), False, "packed"),
        Shipped(
            "isnet-s",
            "IS-Net's edges at 1024 pixels: two fifths of its weights, in 4 to 8 bits, computed in float32",
            (0.942, 0.032),
            False,
            "packed",
            1024,
        ),
        Shipped("icnet-camvid", "11 classes of street scenes, in float16: mIoU .628 on CamVid's val set", None),
        Shipped("icnet-camvid-half", "the same without half of its filters: mIoU .615", None),
        Shipped("lite-two-thirds-int8", f"the first {_INT8}", (0.942, 0.032), False, "int8"),
        Shipped("lite-half-int8", f"the second {_INT8}", (0.939, 0.031), False, "int8"),
    )
}
