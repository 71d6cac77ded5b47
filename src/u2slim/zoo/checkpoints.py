"""Training checkpoints: read without running code from them, rebuilt into nets, written without a training."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from u2slim.errors import UserError
from u2slim.files import file_digest, write_whole
from u2slim.images.preprocess import Preprocess
from u2slim.models import Net, build_net
from u2slim.sizes import Size
from u2slim.zoo.onnx_net import net_of_onnx
from u2slim.zoo.open import open_net
from u2slim.zoo.published import is_published, published_net


def checkpoint_path(name: str | Path) -> Path:
    """The training checkpoint of a net by name; see `open_net`.

    Raises:
        UserError: there is no such net, or it is an ONNX file.
    """
    path = open_net(name).path()
    if path.suffix.lower() == ".onnx":
        raise UserError(f"{path} is an ONNX file, not a training checkpoint; give a .ckpt file.")
    return path


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
    if isinstance(checkpoint, dict) and is_published(checkpoint):
        raise UserError(f"{path} holds published weights; use init=pretrained init.weights={path} instead.")
    parameters = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(parameters, Mapping) or not isinstance(parameters.get("model"), Mapping):
        raise UserError(f"{path} is not a checkpoint of this project: it does not name its model.")
    return checkpoint


def net_from(path: Path) -> Net:
    """The net in a training checkpoint, a published file or an ONNX file, in evaluation mode.

    Its `preprocess.size` is what it was trained at. A net that tells classes apart has their `names` and `palette`, as
    its checkpoint says them, as `labels`.

    Raises:
        UserError: the file holds no net of ours.
    """
    if path.suffix.lower() == ".onnx":
        return net_of_onnx(path)
    if path.suffix.lower() == ".pth":
        return published_net(path)
    saved = read(path)
    parameters = saved["hyper_parameters"]
    net = build_net(parameters["model"])
    try:
        weights = {key: tensor for key, tensor in saved["state_dict"].items() if key.startswith("net.")}
        net.load_state_dict({key.removeprefix("net."): tensor for key, tensor in weights.items()})
        net.labels = parameters.get("classes")
        if entries := parameters.get("preprocess"):
            net.preprocess = Preprocess.from_metadata(entries, parameters["size"])
        return with_size(net, parameters["size"]).eval()
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not hold the net that it names ({reason}). Use an earlier one.") from error


def with_size(net: Net, size: Size) -> Net:
    """The same net, which from now on is used at that size."""
    net.preprocess = replace(net.preprocess, size=size)
    return net


def load_net(
    checkpoint: str | None,
    model: Mapping[str, Any] | None = None,
    init: Callable[[Net], Net] | None = None,
    size: Size | None = None,
) -> Net:
    """A net in evaluation mode, as the settings of a command name it.

    Args:
        checkpoint: see `open_net`; it brings its own model and size.
        model, init, size: without a checkpoint, the net to build, what fills it, and its side; None: its own.

    Raises:
        UserError: both or neither of `checkpoint` and `init` are given, or there is no such net.
    """
    if (checkpoint is None) == (init is None):
        raise UserError(
            "Say which net to use: either checkpoint=FILE (or checkpoint=last), "
            "or model=... model.width=... init=pretrained [init.weights=FILE]."
        )
    if checkpoint is not None:
        return open_net(checkpoint).net()
    assert model is not None and init is not None
    net = build_net(model)
    init(net)
    return with_size(net, size or net.preprocess.size).eval()


def origin(checkpoint: str | Path | None, init: Mapping[str, Any] | None = None) -> str:
    """Which weights these are, for a file's metadata: a checkpoint's step and digest, or what filled the net.

    Of a path only what lies below an `outputs` folder, or the file's name, as the rest tells of a machine.
    """
    if checkpoint is None:
        assert init is not None
        given = init.get("path") or init.get("weights")
        return init["_target_"].rpartition(".")[2] + (f", {Path(given).name}" if given else "")
    path = open_net(checkpoint).path()
    step = None if path.suffix.lower() in (".pth", ".onnx") else read(path).get("global_step")
    trained = "" if step is None else f", step {step}"
    parts = path.parts
    name = "/".join(parts[parts.index("outputs") + 1 :]) if "outputs" in parts else path.name
    return f"{name}{trained}, SHA-256 {file_digest(path, 'sha256')}"


def write_net(net: Net, size: Size, path: Path) -> None:
    """Write a checkpoint of a net that `build_net` made, with nothing of a training."""
    assert net.config is not None, "a net that build_net made"
    weights = {f"net.{key}": tensor.contiguous() for key, tensor in net.state_dict().items()}
    parameters: dict[str, Any] = {"model": dict(net.config), "size": size} | net.own_preprocess()
    if net.labels:
        parameters["classes"] = net.labels
    content = {"hyper_parameters": parameters, "state_dict": weights}
    write_whole(path, lambda partial: torch.save(content, partial))
