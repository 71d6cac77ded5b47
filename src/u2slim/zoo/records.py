"""The published nets, one record each: where a net's file is, how it is checked, and which of our nets it fills."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PublishedFile:
    """One file of a published net.

    Args:
        name: of the file in the cache folder.
        address: where it is downloaded from.
        megabytes: its size in 1e6 bytes.
        md5: as others report it.
        format: `pth`, a state dictionary of torch's.
    """

    name: str
    address: str
    megabytes: float
    md5: str
    format: str = "pth"


@dataclass(frozen=True)
class Published:
    """A published net.

    Args:
        name: by which every command knows it.
        config: the `model` config of the dense net; its class says how the file's keys map to ours.
        files: in the order in which they are tried.
        licence: of the weights.
        source: who publishes them.
        scores: the paper's numbers by data set: maxF (of the set) and MAE.
    """

    name: str
    config: Mapping[str, Any]
    files: tuple[PublishedFile, ...]
    licence: str
    source: str
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def file(self) -> PublishedFile:
        """The first file that torch reads."""
        return next(file for file in self.files if file.format == "pth")


def _u2net(width: str) -> dict[str, Any]:
    conv = {"_target_": "u2slim.models.StandardConv", "_partial_": True}
    return {"_target_": "u2slim.models.U2Net", "width": width, "conv": conv}


_U2NET_SOURCE = "https://github.com/xuebinqin/U-2-Net"
PUBLISHED = {
    record.name: record
    for record in (
        Published(
            "u2net",
            _u2net("full"),
            (
                PublishedFile(
                    "u2net.pth",
                    "https://drive.google.com/uc?id=1ao1ovG1Qtx4b7EoskHXmi2E9rp5CHLcZ",
                    176.3,
                    "09fb4e49b7f785c9f855baf94916840a",
                ),
            ),
            "Apache-2.0",
            _U2NET_SOURCE,
            {"DUTS-TE": (0.873, 0.044), "ECSSD": (0.951, 0.033)},
        ),
        Published(
            "u2netp",
            _u2net("lite"),
            (
                PublishedFile(
                    "u2netp.pth",
                    "https://drive.google.com/uc?id=1rbSTGKAE-MTxBYHd-51l2hMOQPT_7EPy",
                    4.8,
                    "e4f636406ca4e2af789941e7f139ee2e",
                ),
            ),
            "Apache-2.0",
            _U2NET_SOURCE,
            {"DUTS-TE": (0.852, 0.054), "ECSSD": (0.943, 0.041)},
        ),
    )
}


def u2net_of(width: str) -> str:
    """The name of the published U2-Net of a width, `full` or `lite`."""
    return next(name for name, record in PUBLISHED.items() if record.config.get("width") == width)


# ResNets of ImageNet's 1000 classes, by torchvision. What follows the dash is how the file's SHA-256 begins.
BACKBONE_ADDRESSES = {
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
}
