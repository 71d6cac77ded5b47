"""The nets that come with the package: ONNX files in `nets/`, and in a clone the checkpoints that they were made of."""

from dataclasses import dataclass
from pathlib import Path

import u2slim.nets
from u2slim.repository import WEIGHTS

NETS = Path(u2slim.nets.__file__).parent
DEFAULT = "lite-two-thirds"


@dataclass(frozen=True)
class Shipped:
    """A net of ours.

    Args:
        name: by which every command knows it.
        about: in a few words.
        checkpoint: whether `weights/` has it for training, in float32.
    """

    name: str
    about: str
    checkpoint: bool = True

    @property
    def onnx(self) -> Path:
        return NETS / f"{self.name}.onnx"

    @property
    def weights(self) -> Path | None:
        """The checkpoint, where there is a clone that has it."""
        path = WEIGHTS / f"{self.name}.ckpt"
        return path if self.checkpoint and path.is_file() else None


SHIPPED = {
    net.name: net
    for net in (
        Shipped("lite-two-thirds", "two thirds of the published lite net's weights, in float16"),
        Shipped("lite-half", "half of its weights, in float32"),
        Shipped("lite-dwsep", "depthwise-separable, in float32, for 256 pixels"),
        Shipped("lite-two-thirds-int8", "the first in 8 bits, for OpenVINO and onnxruntime", checkpoint=False),
        Shipped("lite-half-int8", "the second in 8 bits, for OpenVINO and onnxruntime", checkpoint=False),
    )
}
