"""The published nets, one record each: where a net's file is, how it is checked, and which of our nets it fills."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from u2slim.images.preprocess import ISNET_PREPROCESS, U2NET_PREPROCESS, Preprocess


@dataclass(frozen=True)
class PublishedFile:
    """One file of a published net.

    Args:
        name: of the file in the cache folder; its ending tells the format.
        address: where it is downloaded from.
        megabytes: its size in 1e6 bytes.
        md5: as others report it.
    """

    name: str
    address: str
    megabytes: float
    md5: str

    @property
    def is_onnx(self) -> bool:
        return self.name.endswith(".onnx")


@dataclass(frozen=True)
class Published:
    """A published net.

    Args:
        name: by which every command knows it.
        about: what it is for.
        config: the `model` config of the dense net, whose class says how the file's keys map to ours; None: its
            structure is documented nowhere, so that only its ONNX file says whether torch can build it.
        files: in the order in which they are tried; an ONNX file runs without torch.
        licence: of the weights.
        source: who publishes them.
        preprocess: what its input is made of, at the size it was published for.
        scores: the paper's numbers by data set: maxF (of the set) and MAE.
        ecssd: what we measured on ECSSD 0001-0200 at that size (docs/lab/isnet.md): maxF and MAE by `pysodmetrics`.
    """

    name: str
    about: str
    config: Mapping[str, Any] | None
    files: tuple[PublishedFile, ...]
    licence: str
    source: str
    preprocess: Preprocess = U2NET_PREPROCESS
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ecssd: tuple[float, float] | None = None


def _dense(net: str, **settings: str) -> dict[str, Any]:
    conv = {"_target_": "u2slim.models.StandardConv", "_partial_": True}
    return {"_target_": f"u2slim.models.{net}", **settings, "conv": conv}


def _onnx(name: str, megabytes: float, md5: str) -> PublishedFile:
    """A file among rembg's releases, whose BatchNorms are folded into the convolutions."""
    address = f"https://github.com/danielgatis/rembg/releases/download/v0.0.0/{name}.onnx"
    return PublishedFile(f"{name}.onnx", address, megabytes, md5)


def _drive(name: str, key: str, megabytes: float, md5: str) -> PublishedFile:
    """A file of Google Drive's, which refuses it when many have asked for it."""
    return PublishedFile(f"{name}.pth", f"https://drive.google.com/uc?id={key}", megabytes, md5)


_U2NET = "https://github.com/xuebinqin/U-2-Net"
PUBLISHED = {
    record.name: record
    for record in (
        Published(
            "u2net",
            "U2-Net",
            _dense("U2Net", width="full"),
            (
                _onnx("u2net", 176.0, "60024c5c889badc19c04ad937298a77b"),
                _drive("u2net", "1ao1ovG1Qtx4b7EoskHXmi2E9rp5CHLcZ", 176.3, "09fb4e49b7f785c9f855baf94916840a"),
            ),
            "Apache-2.0",
            _U2NET,
            scores={"DUTS-TE": (0.873, 0.044), "ECSSD": (0.951, 0.033)},
        ),
        Published(
            "u2netp",
            "lite U2-Net",
            _dense("U2Net", width="lite"),
            (
                _onnx("u2netp", 4.6, "8e83ca70e441ab06c318d82300c84806"),
                _drive("u2netp", "1rbSTGKAE-MTxBYHd-51l2hMOQPT_7EPy", 4.8, "e4f636406ca4e2af789941e7f139ee2e"),
            ),
            "Apache-2.0",
            _U2NET,
            scores={"DUTS-TE": (0.852, 0.054), "ECSSD": (0.943, 0.041)},
            ecssd=(0.944, 0.032),
        ),
        Published(
            "u2net_human_seg",
            "U2-Net, for people",
            _dense("U2Net", width="full"),
            (_onnx("u2net_human_seg", 176.0, "c09ddc2e0104f800e3e1bb4652583d1f"),),
            "Apache-2.0",
            _U2NET,
        ),
        Published(
            "silueta",
            "a smaller U2-Net; its structure is not documented",
            None,
            (_onnx("silueta", 44.2, "55e59e0d8062d2f5d013f4725ee84782"),),
            "none stated",
            f"{_U2NET}/issues/295",
        ),
        Published(
            "isnet-general-use",
            "IS-Net",
            _dense("ISNet"),
            (_onnx("isnet-general-use", 178.6, "fc16ebd8b0c10d971d3513d564d01e29"),),
            "Apache-2.0",
            "https://github.com/xuebinqin/DIS",
            ISNET_PREPROCESS,
            ecssd=(0.949, 0.031),
        ),
        Published(
            "isnet-anime",
            "IS-Net, for drawn figures",
            _dense("ISNet"),
            (_onnx("isnet-anime", 176.1, "6f184e756bb3bd901c8849220a83e38e"),),
            "Apache-2.0",
            "https://github.com/SkyTNT/anime-segmentation",
            Preprocess(1024, U2NET_PREPROCESS.mean, (1.0, 1.0, 1.0), own_maximum=False),  # as rembg runs it
        ),
    )
}


def u2net_of(width: str) -> str:
    """The name of the published U2-Net of a width, `full` or `lite`."""
    return next(name for name, record in PUBLISHED.items() if record.config and record.config.get("width") == width)


def structures() -> dict[str, Mapping[str, Any]]:
    """The config of each structure that is published, by the name of the first net that has it."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, record in PUBLISHED.items():
        if record.config is not None and record.config not in found.values():
            found[name] = record.config
    return found
