"""Published weights: where they are, how they are checked, and how their keys map to ours."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from u2slim.errors import UserError
from u2slim.files import cache_dir, file_digest, is_web_page
from u2slim.models import U2Net
from u2slim.models.resnet import ResNet


@dataclass(frozen=True)
class Published:
    """One weights file of the U-2-Net repository (github.com/xuebinqin/U-2-Net)."""

    file: str
    drive_id: str
    reported_md5: str
    megabytes: float

    @property
    def url(self) -> str:
        return f"https://drive.google.com/uc?id={self.drive_id}"


PUBLISHED = {
    "full": Published("u2net.pth", "1ao1ovG1Qtx4b7EoskHXmi2E9rp5CHLcZ", "09fb4e49b7f785c9f855baf94916840a", 176.3),
    "lite": Published("u2netp.pth", "1rbSTGKAE-MTxBYHd-51l2hMOQPT_7EPy", "e4f636406ca4e2af789941e7f139ee2e", 4.7),
}

# Of ImageNet's 1000 classes, by torchvision. What follows the dash is how the file's SHA-256 begins.
BACKBONES = {
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
}


def fetch(width: str) -> Path:
    """The cached published file of a width, downloaded on first use.

    The first use records the file's SHA-256 beside it; later uses compare with the record. The MD5 that
    others report for the file is compared once, after the download.

    Raises:
        UserError: no network (says what to download by hand and where to put it), or a changed file.
    """
    published = PUBLISHED[width]
    path = cache_dir() / published.file
    if not path.exists():
        _download(width, path)
    record = path.with_suffix(".pth.sha256")
    digest = file_digest(path, "sha256")
    if not record.exists():
        load_published(path, width)
        if file_digest(path, "md5") != published.reported_md5:
            print(f"note: {path} loads, but its MD5 is not the reported {published.reported_md5}.")
        record.write_text(f"{digest}  {path.name}\n")
    elif record.read_text().split()[0] != digest:
        raise UserError(
            f"{path} has changed since its first use (SHA-256 {digest}, recorded in {record.name}). "
            f"Delete both files to download it again."
        )
    return path


def _download(width: str, path: Path) -> None:
    import gdown

    published = PUBLISHED[width]
    partial = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {published.file} ({published.megabytes} MB) from {published.url}")
    try:
        done = gdown.download(id=published.drive_id, output=str(partial))
        if done is None:
            raise OSError("the server sent no file")
        load_published(partial, width)
    except Exception as error:  # gdown passes on the errors of several libraries
        partial.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{published.file} could not be downloaded ({type(error).__name__}: {reason}). "
            f"Download it by hand from {published.url} and put it at {path}, "
            f"or give a copy that you have: init.weights=PATH (for a teacher task.distill.teacher=PATH)."
        ) from error
    partial.replace(path)


def key_map(width: str = "full") -> dict[str, str]:
    """Official state-dict key -> ours, for every tensor of the net (the layout is the same at both widths)."""
    with torch.device("meta"):
        net = U2Net(width)
    stages = {f"stage{n + 1}": f"encoder.{n}" for n in range(6)} | {
        f"stage{n}d": f"decoder.{5 - n}" for n in range(1, 6)
    }
    modules = {f"side{n + 1}": f"sides.{n}" for n in range(6)} | {"outconv": "fuse"}
    for stage, ours in stages.items():
        levels = len(net.get_submodule(ours).encoder)
        blocks = {"rebnconvin": "stem", f"rebnconv{levels + 1}": "bottom"}
        blocks |= {f"rebnconv{n}": f"encoder.{n - 1}" for n in range(1, levels + 1)}
        blocks |= {f"rebnconv{n}d": f"decoder.{levels - n}" for n in range(1, levels + 1)}
        for block, our_block in blocks.items():
            modules[f"{stage}.{block}.conv_s1"] = f"{ours}.{our_block}.conv"
            modules[f"{stage}.{block}.bn_s1"] = f"{ours}.{our_block}.bn"
    return {
        f"{official}.{tensor}": f"{ours}.{tensor}"
        for official, ours in modules.items()
        for tensor in net.get_submodule(ours).state_dict()
    }


def load_published(path: str | Path, width: str) -> dict[str, Tensor]:
    """A published file's tensors under our keys, ready for a strict load into `U2Net(width)`.

    Raises:
        UserError: the file is missing, of the other width, a training checkpoint, a web page, truncated, or
            holds anything that is not this net; the message says which.
    """
    path = Path(path)
    state = _read(path)
    names = key_map(width)
    if "pytorch-lightning_version" in state or "state_dict" in state:
        raise UserError(
            f"{path} is a training checkpoint, not published weights. "
            f"Give it as checkpoint= (or ckpt_path= to resume), not as init.weights."
        )
    missing, extra = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or extra:
        raise UserError(
            f"{path} does not hold U2-Net's {len(names)} tensors: {len(missing)} missing {missing[:2]}, "
            f"{len(extra)} unknown {extra[:2]}."
        )
    with torch.device("meta"):
        expected = U2Net(width).state_dict()
        other = U2Net("lite" if width == "full" else "full")
    shapes = {ours: state[official].shape for official, ours in names.items()}
    wrong = [ours for ours, shape in shapes.items() if shape != expected[ours].shape]
    if wrong and all(shape == other.state_dict()[ours].shape for ours, shape in shapes.items()):
        raise UserError(
            f"{path} holds the {other.width} net, not the {width} one; use model.width={other.width} "
            f"(for a teacher task.distill.width={other.width})."
        )
    if wrong:
        raise UserError(f"{path}: {len(wrong)} tensors have another shape than the {width} net, e.g. {wrong[0]}.")
    return {ours: state[official] for official, ours in names.items()}


def published_net(width: str, path: str | Path | None = None) -> U2Net:
    """The published net in evaluation mode, from a `.pth` file, or downloaded on first use; errors as they say."""
    net = U2Net(width)
    net.load_state_dict(load_published(path or fetch(width), width))
    return net.eval()


def load_backbone(path: str | Path, backbone: str) -> dict[str, Tensor]:
    """A ResNet of torchvision's, ready for a strict load into `ResNet(backbone)`; its classifier is left out.

    Raises:
        UserError: the file is missing, not the one that its name says, or holds anything but this ResNet.
    """
    path = Path(path).expanduser()
    state = _read(path, BACKBONES[backbone])
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
            f"Give {BACKBONES[backbone]}, or another model.backbone ({', '.join(BACKBONES)})."
        )
    return state


def _read(path: Path, address: str | None = None) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"No weights file at {path}; check init.weights.")
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    if is_web_page(path):
        raise UserError(f"{path} is a web page, not weights: the download failed. Delete it and download again.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        published = address or ", ".join(f"{p.file} {p.megabytes} MB" for p in PUBLISHED.values())
        raise UserError(
            f"{path} ({size}) cannot be read as PyTorch weights: truncated, damaged, or of another kind "
            f"(the published files: {published}). Download it again. [{type(error).__name__}]"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a dictionary of tensors.")
    return state
