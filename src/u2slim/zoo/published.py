"""Published files of torch's: downloaded once, checked, and read into our own nets."""

import re
from pathlib import Path

import torch
from hydra.utils import get_class
from torch import Tensor

from u2slim.errors import UserError
from u2slim.files import cache_dir, file_digest, is_web_page
from u2slim.models import Net, build_net
from u2slim.models.resnet import ResNet
from u2slim.zoo.records import BACKBONE_ADDRESSES, PUBLISHED, Published, PublishedFile


def fetch(published: Published) -> Path:
    """The cached file of a published net, downloaded on first use.

    The first use records the file's SHA-256 beside it; later uses compare with the record. The MD5 that
    others report for the file is compared once, after the download.

    Raises:
        UserError: no network (says what to download by hand and where to put it), or a changed file.
    """
    file = published.file
    path = cache_dir() / file.name
    if not path.exists():
        _download(file, path)
    record = path.with_suffix(".pth.sha256")
    digest = file_digest(path, "sha256")
    if not record.exists():
        load_published(path)
        if file_digest(path, "md5") != file.md5:
            print(f"note: {path} loads, but its MD5 is not the reported {file.md5}.")
        record.write_text(f"{digest}  {path.name}\n")
    elif record.read_text().split()[0] != digest:
        raise UserError(
            f"{path} has changed since its first use (SHA-256 {digest}, recorded in {record.name}). "
            f"Delete both files to download it again."
        )
    return path


def _download(file: PublishedFile, path: Path) -> None:
    import gdown

    partial = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {file.name} ({file.megabytes} MB) from {file.address}")
    try:
        done = gdown.download(url=file.address, output=str(partial))
        if done is None:
            raise OSError("the server sent no file")
        load_published(partial)
    except Exception as error:  # gdown passes on the errors of several libraries
        partial.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, ConnectionError) or "NameResolution" in reason:
            reason = "no connection to the server"
        raise UserError(
            f"{file.name} could not be downloaded ({type(error).__name__}: {reason}). "
            f"Download it by hand from {file.address} and put it at {path}, "
            f"or give a copy in place of the name: --net PATH, init.weights=PATH, task.distill.teacher=PATH."
        ) from error
    partial.replace(path)


def is_published(state: dict) -> bool:
    """Whether a state dictionary has the keys of some published net."""
    return any(first in state for first in (next(iter(_class_of(net).published_keys())) for net in PUBLISHED.values()))


def load_published(path: str | Path) -> tuple[Published, dict[str, Tensor]]:
    """Which published net a file is of, and its tensors under our keys, ready for a strict load.

    Raises:
        UserError: the file is missing, a training checkpoint, a web page, truncated, or holds anything that is no
            published net; the message says which.
    """
    path = Path(path)
    state = _read(path)
    if "pytorch-lightning_version" in state or "state_dict" in state:
        raise UserError(
            f"{path} is a training checkpoint, not published weights. "
            f"Give it as checkpoint= (or ckpt_path= to resume), not as init.weights."
        )
    for published in PUBLISHED.values():
        names = _class_of(published).published_keys()
        if names.keys() != state.keys():
            continue
        with torch.device("meta"):
            expected = build_net(published.config).state_dict()
        if all(state[theirs].shape == expected[ours].shape for theirs, ours in names.items()):
            return published, {ours: state[theirs] for theirs, ours in names.items()}
    raise _unknown(path, state)


def published_net(path: str | Path) -> Net:
    """The published net in a `.pth` file, in evaluation mode; errors as `load_published`."""
    published, tensors = load_published(path)
    net = build_net(published.config)
    net.load_state_dict(tensors)
    return net.eval()


def load_backbone(path: str | Path, backbone: str) -> dict[str, Tensor]:
    """A ResNet of torchvision's, ready for a strict load into `ResNet(backbone)`; its classifier is left out.

    Raises:
        UserError: the file is missing, not the one that its name says, or holds anything but this ResNet.
    """
    path = Path(path).expanduser()
    state = _read(path, BACKBONE_ADDRESSES[backbone])
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


def _class_of(published: Published) -> type[Net]:
    return get_class(published.config["_target_"])


def _unknown(path: Path, state: dict) -> UserError:
    """What is wrong with a file, beside the published net that it has most keys of."""
    nearest = max(PUBLISHED.values(), key=lambda net: len(_class_of(net).published_keys().keys() & state.keys()))
    names = _class_of(nearest).published_keys()
    missing, extra = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or extra:
        return UserError(
            f"{path} does not hold the {len(names)} tensors of {nearest.name}: {len(missing)} missing {missing[:2]}, "
            f"{len(extra)} unknown {extra[:2]}. Published nets: {', '.join(PUBLISHED)}."
        )
    with torch.device("meta"):
        expected = build_net(nearest.config).state_dict()
    wrong = [theirs for theirs, ours in names.items() if state[theirs].shape != expected[ours].shape]
    return UserError(
        f"{path} has the tensors of {nearest.name}, but {len(wrong)} of another shape, e.g. {wrong[0]}. "
        f"Published nets: {', '.join(PUBLISHED)}."
    )


def _read(path: Path, address: str | None = None) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"No weights file at {path}; check init.weights.")
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    if is_web_page(path):
        raise UserError(f"{path} is a web page, not weights: the download failed. Delete it and download again.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        known = ", ".join(f"{f.name} {f.megabytes} MB" for net in PUBLISHED.values() for f in net.files)
        raise UserError(
            f"{path} ({size}) cannot be read as PyTorch weights: truncated, damaged, or of another kind "
            f"(the published files: {address or known}). Download it again. [{type(error).__name__}]"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a dictionary of tensors.")
    return state
