"""ResNets of ImageNet's 1000 classes as torchvision publishes them, which nets with classes begin with."""

import re
from pathlib import Path

import torch
from torch import Tensor

from u2slim.errors import UserError
from u2slim.files import file_digest, user_path
from u2slim.models.resnet import ResNet
from u2slim.zoo.published import read_tensors

# What follows the dash is how the file's SHA-256 begins.
BACKBONE_ADDRESSES = {
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
}


def load_backbone(path: str | Path, backbone: str) -> dict[str, Tensor]:
    """A ResNet of torchvision's, ready for a strict load into `ResNet(backbone)`; its classifier is left out.

    Raises:
        UserError: the file is missing, not the one that its name says, or holds anything but this ResNet.
    """
    path = user_path(path)
    state = read_tensors(path, BACKBONE_ADDRESSES[backbone])
    digest = file_digest(path, "sha256")
    if (named := re.search(r"-([0-9a-f]{8})$", path.stem)) and not digest.startswith(named[1]):
        raise UserError(
            f"{path} is damaged: its SHA-256 is {digest[:8]}..., and its name says {named[1]}. Download it again."
        )
    with torch.device("meta"):
        expected = ResNet(backbone).state_dict()
    # torchvision's first files were written before BatchNorm counted its batches.
    state = {key: torch.tensor(0) for key in expected if key.endswith("num_batches_tracked")} | state
    state = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if missing or extra or wrong:
        raise UserError(
            f"{path} does not hold torchvision's {backbone}: {len(missing)} of its {len(expected)} tensors are missing "
            f"{missing[:2]}, {len(extra)} are unknown {extra[:2]}, {len(wrong)} are of another shape {wrong[:2]}. "
            f"Give {BACKBONE_ADDRESSES[backbone]}, or another model.backbone ({', '.join(BACKBONE_ADDRESSES)})."
        )
    return state
