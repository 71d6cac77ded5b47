"""Finding training checkpoints and rebuilding their nets."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from u2slim.errors import UserError
from u2slim.files import file_digest, free_bytes, write_whole
from u2slim.models import build_net
from u2slim.repository import WEIGHTS
from u2slim.sizes import Size

DEFAULT = "lite-two-thirds"  # of the shipped nets


def shipped() -> dict[str, Path]:
    """The nets that come with the code, by name."""
    return {file.stem: file for file in sorted(WEIGHTS.glob("*.ckpt"))}


def resolve(checkpoint: str | Path, outputs: str | Path = "outputs") -> Path:
    """A checkpoint's path: itself, a shipped net's, or for `last` the newest `last.ckpt` of any run under `outputs`.

    Raises:
        UserError: there is no such file.
    """
    if str(checkpoint) != "last":
        path = shipped().get(str(checkpoint), Path(checkpoint).expanduser())
        if not path.is_file():
            raise UserError(
                f"No checkpoint at {path}; give a .ckpt or .onnx file, `last` for the newest run's, or a shipped net "
                f"({', '.join(shipped())})."
            )
        return path
    found = sorted(Path(outputs).rglob("checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"No run under {Path(outputs)}/ has a checkpoints/last.ckpt yet; train one, or name a file.")
    return found[-1]


def read(path: Path) -> dict:
    """A Lightning checkpoint of ours, read without running any code from the file.

    Raises:
        UserError: the file is truncated, published weights, or from another project.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise UserError(
            f"{path} ({path.stat().st_size / 1e6:.1f} MB) cannot be read as a checkpoint: truncated, damaged or "
            f"of another kind. Use an earlier one. [{type(error).__name__}]"
        ) from error
    if isinstance(checkpoint, dict) and "stage1.rebnconvin.conv_s1.weight" in checkpoint:
        raise UserError(f"{path} holds published weights; use init=pretrained init.weights={path} instead.")
    if not isinstance(checkpoint, dict) or "model" not in checkpoint.get("hyper_parameters", {}):
        raise UserError(f"{path} is not a checkpoint of this project: it does not name its model.")
    return checkpoint


def load_net(
    checkpoint: str | None,
    model: Mapping[str, Any] | None = None,
    init: Callable[[nn.Module], nn.Module] | None = None,
    size: Size = 320,
) -> tuple[nn.Module, Size]:
    """A net in evaluation mode and the side of the square, or [height, width], it works at.

    A net that tells classes apart has their `names` and `palette`, as its checkpoint says them, as `labels`.

    Args:
        checkpoint: a training checkpoint or `last`; it brings its own model and size.
        model, init, size: without a checkpoint, the net to build, what fills it, and its side.

    Raises:
        UserError: both or neither of `checkpoint` and `init` are given, or the file is no checkpoint of ours.
    """
    if (checkpoint is None) == (init is None):
        raise UserError(
            "Say which net to use: either checkpoint=FILE (or checkpoint=last), "
            "or model=... model.width=... init=pretrained [init.weights=FILE]."
        )
    if checkpoint is None:
        net = build_net(model)
        init(net)
        return net.eval(), size
    saved = read(resolve(checkpoint))
    parameters = saved["hyper_parameters"]
    net = build_net(parameters["model"])
    weights = {key: tensor for key, tensor in saved["state_dict"].items() if key.startswith("net.")}
    net.load_state_dict({key.removeprefix("net."): tensor for key, tensor in weights.items()})
    net.labels = parameters.get("classes")
    return net.eval(), parameters["size"]


def origin(checkpoint: str | Path | None, init: Mapping[str, Any] | None = None) -> str:
    """Which weights these are, for a file's metadata: a checkpoint's step and digest, or what filled the net.

    Of a path only what lies below an `outputs` folder, or the file's name, as the rest tells of a machine.
    """
    if checkpoint is None:
        given = init.get("path") or init.get("weights")
        return init["_target_"].rpartition(".")[2] + (f", {Path(given).name}" if given else "")
    path = resolve(checkpoint)
    step = read(path).get("global_step")
    trained = "" if step is None else f", step {step}"
    parts = path.parts
    name = "/".join(parts[parts.index("outputs") + 1 :]) if "outputs" in parts else path.name
    return f"{name}{trained}, SHA-256 {file_digest(path, 'sha256')}"


def write_net(net: nn.Module, size: Size, path: Path) -> None:
    """Write a checkpoint of a net that `build_net` made, with nothing of a training."""
    weights = {f"net.{key}": tensor.contiguous() for key, tensor in net.state_dict().items()}
    classes = {"classes": labels} if (labels := getattr(net, "labels", None)) else {}
    content = {"hyper_parameters": {"model": dict(net.config), "size": size} | classes, "state_dict": weights}
    write_whole(path, lambda partial: torch.save(content, partial))


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are on the disk whole or not at all, whenever the process or the machine ends."""

    # upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/19970; drop when it is closed and what
    # Lightning writes is synced and renamed: in 2.6.6 fsspec moves it from /tmp, which between disks is a copy
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())

        path = Path(path)
        try:
            write_whole(path, write)
        except (UserError, RuntimeError) as error:  # torch turns some of the system's errors into its own
            raise UserError(
                f"{path} could not be written, with {free_bytes(path) / 1e6:.0f} MB free there. Earlier checkpoints "
                f"are as they were; make room, or choose another folder, and go on with resume=auto. [{error}]"
            ) from error
