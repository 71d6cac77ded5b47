"""Published files read into our own nets: state dictionaries of torch's, and ONNX files."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import get_class
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.files import refuse_web_page
from u2slim.images.preprocess import Preprocess
from u2slim.models import Net, build_net
from u2slim.models.hooks import outputs_of
from u2slim.runtime.onnx_convolutions import Convolution, OnnxConvolutions, read_convolutions
from u2slim.runtime.onnx_reader import named_size
from u2slim.zoo.records import PUBLISHED

# Under these keys trainings keep the net's tensors beside what else they keep.
_WRAPPINGS = ("model", "state_dict", "net", "model_state_dict", "params")


def is_published(state: dict) -> bool:
    """Whether a state dictionary has the keys of some published net."""
    return any(next(iter(_keys(config))) in state for config in _structures().values())


def published_net(path: str | Path) -> Net:
    """The published net in a `.pth` or `.onnx` file, in evaluation mode.

    An ONNX file has BatchNorm folded into its convolutions. So the net gets its convolutions, and BatchNorms that do
    nothing (`is_folded`); and what the file says of its size and normalisation.

    Raises:
        UserError: the file is missing, a training checkpoint, a web page, truncated, or holds anything that is no
            published net; the message says which.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        return _net_of_onnx(path)
    config, tensors = load_published(path)
    net = build_net(config)
    net.load_state_dict(tensors)
    return net.eval()


def is_folded(net: nn.Module) -> bool:
    """Whether every BatchNorm leaves what it gets as it is, so that it has no statistics to train by."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    shifts = [tensor for norm in norms for tensor in (norm.bias, norm.running_mean) if tensor is not None]
    return bool(norms) and not any(tensor.any() for tensor in shifts)


def load_published(path: str | Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """The config of the net in a `.pth` file, and its tensors under our keys, ready for a strict load.

    It may be saved from `DataParallel` (`module.` before each key), beside other things of a training, or by a version
    of torch's whose BatchNorm did not count its batches.

    Raises:
        UserError: as `published_net`.
    """
    path = Path(path)
    state = _unwrapped(path, read_tensors(path))
    for config in _structures().values():
        names = _keys(config)
        counters = [key for key in names if key.endswith(".num_batches_tracked") and key not in state]
        found = state | dict.fromkeys(counters, torch.tensor(0))
        if names.keys() == found.keys() and not _misshapen(config, names, found):
            if wrong := [key for key in names if not found[key].isfinite().all()]:
                raise UserError(f"{path} has NaN or infinite values in {len(wrong)} of its tensors, e.g. {wrong[0]}.")
            return config, {ours: found[theirs] for theirs, ours in names.items()}
    raise _unknown(path, state)


def read_tensors(path: Path, address: str | None = None) -> dict[str, Tensor]:
    """The dictionary in a `.pth` file, read without running any code from it.

    Args:
        address: where the file is from; None: any published file.

    Raises:
        UserError: it is missing, a web page, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"No weights file at {path}; check init.weights.")
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    refuse_web_page(path, "weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        if "Unsupported global: GLOBAL " in str(error):
            what = str(error).split("Unsupported global: GLOBAL ", 1)[1].split()[0]
            raise UserError(
                f"{path} cannot be read without running code from it: it holds {what}, and not tensors alone. "
                "A whole pickled module is of that kind: save net.state_dict() where its code is at hand."
            ) from error
        known = ", ".join(f"{f.name} {f.megabytes} MB" for net in PUBLISHED.values() for f in net.files)
        raise UserError(
            f"{path} ({size}) cannot be read as PyTorch weights: truncated, damaged, or of another kind "
            f"(the published files: {address or known}). Download it again. [{type(error).__name__}]"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a dictionary of tensors.")
    return state


def _unwrapped(path: Path, state: dict) -> dict[str, Tensor]:
    if "pytorch-lightning_version" in state:
        raise UserError(
            f"{path} is a training checkpoint, not published weights. "
            f"Give it as checkpoint= (or ckpt_path= to resume), not as init.weights."
        )
    for key in _WRAPPINGS:
        if isinstance(state.get(key), Mapping) and not isinstance(state[key], Tensor):
            state = dict(state[key])
            break
    for prefix in ("module.", "_orig_mod.", "module."):  # of DataParallel and torch.compile
        if state and all(str(key).startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return {key: tensor for key, tensor in state.items() if isinstance(tensor, Tensor)}


def _structures() -> dict[str, Mapping[str, Any]]:
    """The config of each structure that is published, by the name of the first net that has it."""
    structures: dict[str, Mapping[str, Any]] = {}
    for name, record in PUBLISHED.items():
        if record.config is not None and record.config not in structures.values():
            structures[name] = record.config
    return structures


def _keys(config: Mapping[str, Any]) -> dict[str, str]:
    """A published file's key -> ours."""
    net: type[Net] = get_class(config["_target_"])
    return net.published_keys()


def _misshapen(config: Mapping[str, Any], names: Mapping[str, str], state: Mapping[str, Tensor]) -> list[str]:
    """The tensors whose shape is not that of the config's net."""
    with torch.device("meta"):
        expected = build_net(config).state_dict()
    return [theirs for theirs, ours in names.items() if state[theirs].shape != expected[ours].shape]


def _unknown(path: Path, state: dict[str, Tensor]) -> UserError:
    """What is wrong with a file, beside the published net that it has most keys of."""
    name, config = max(_structures().items(), key=lambda item: len(_keys(item[1]).keys() & state.keys()))
    names = _keys(config)
    missing, extra = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or extra:
        return UserError(
            f"{path} does not hold the {len(names)} tensors of {name}: {len(missing)} missing {missing[:2]}, "
            f"{len(extra)} unknown {extra[:2]}. Published nets: {', '.join(PUBLISHED)}."
        )
    wrong = _misshapen(config, names, state)
    return UserError(
        f"{path} has the tensors of {name}, but {len(wrong)} of another shape, e.g. {wrong[0]}. "
        f"Published nets: {', '.join(PUBLISHED)}."
    )


def _net_of_onnx(path: Path) -> Net:
    if not path.is_file():
        raise UserError(f"No net at {path}.")
    file = read_convolutions(path)
    differences = []
    for name, config in _structures().items():
        modules, names = _layout_of(name)
        paired = _paired(modules, names, file.convolutions)
        if difference := _difference(modules, paired, len(file.convolutions)):
            differences.append(f"{name}: {difference}")
            continue
        net = _filled(config, paired)
        net.preprocess = _preprocess_of(path, file, net.preprocess)
        return net
    raise UserError(
        f"{path} holds no net that torch can build from an ONNX file ({'; '.join(differences)}). Give a file of one "
        f"of these, or the checkpoint, a .ckpt or .pth file, that it was made of."
    )


@cache
def _layout_of(name: str) -> tuple[dict[str, nn.Conv2d], dict[str, str]]:
    """The convolutions of a structure, and what the published net calls its modules, by ours."""
    with torch.device("meta"):
        net = build_net(_structures()[name])
    return _convolutions_of(net), {ours: published for published, ours in net.published_modules().items()}


def _preprocess_of(path: Path, file: OnnxConvolutions, usual: Preprocess) -> Preprocess:
    """What a file says of its input, and of the rest what is usual."""
    entries = {key.removeprefix("u2slim."): value for key, value in file.metadata.items()}
    size = usual.size
    if pair := file.size if all(file.size) else named_size(file.metadata):
        size = pair[0] if pair[0] == pair[1] else list(pair)
    if "mean" not in entries:
        return replace(usual, size=size)
    try:
        return Preprocess.from_metadata(entries, size)
    except ValueError as error:
        raise UserError(f"{path} does not say how its input is normalised ({error}).") from error


def _convolutions_of(net: Net) -> dict[str, nn.Conv2d]:
    """A net's convolutions by name, in the order in which an image reaches them."""
    names = {module: name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    with outputs_of(names) as outputs, torch.no_grad():
        net.eval()(torch.empty(1, 3, 64, 64, device="meta"))
    return {names[module]: module for module in outputs if isinstance(module, nn.Conv2d)}


def _paired(
    modules: Mapping[str, nn.Conv2d], names: Mapping[str, str], found: list[Convolution]
) -> dict[str, Convolution]:
    """Each of our convolutions with one of the file's: by the names that it has there, or else by their order."""
    named = {convolution.name: convolution for convolution in found}
    for theirs in (names, {name: name for name in modules}):
        if len(named) == len(found) and {theirs[name] for name in modules} == named.keys():
            return {name: named[theirs[name]] for name in modules}
    return dict(zip(modules, found, strict=False))


def _difference(modules: Mapping[str, nn.Conv2d], paired: Mapping[str, Convolution], count: int) -> str:
    """In what a file of so many convolutions differs from a net, in a few words; empty: in nothing."""
    if count != len(modules):
        return f"{count} convolutions instead of {len(modules)}"
    for number, (name, module) in enumerate(modules.items(), 1):
        one = paired[name]
        theirs = (*one.weight_OIKK.shape, one.stride, one.dilation)
        ours = (*module.weight.shape, module.stride[0], module.dilation[0])
        if theirs != ours:
            shapes = ["x".join(map(str, shape)) for shape in (one.weight_OIKK.shape, module.weight.shape)]
            if shapes[0] == shapes[1]:
                shapes = [f"stride {stride}, dilation {dilation}" for *_, stride, dilation in (theirs, ours)]
            return f"convolution {number} ({one.name}) has {' instead of '.join(shapes)}"
        if one.bias_O is not None and one.bias_O.shape != module.weight.shape[:1]:
            return f"convolution {number} ({one.name}) has a bias of shape {one.bias_O.shape}"
        if not np.isfinite(one.weight_OIKK).all() or (one.bias_O is not None and not np.isfinite(one.bias_O).all()):
            return f"convolution {number} ({one.name}) has NaN or infinite weights"
    return ""


@torch.no_grad()
def _filled(config: Mapping[str, Any], paired: Mapping[str, Convolution]) -> Net:
    """A net in evaluation mode of these convolutions, and of BatchNorms that do nothing."""
    net = build_net(config)
    for name, found in paired.items():
        conv = net.get_submodule(name)
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        conv.weight.copy_(torch.tensor(found.weight_OIKK))
        conv.bias.zero_() if found.bias_O is None else conv.bias.copy_(torch.tensor(found.bias_O))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(1 - module.eps)
    return net.eval()
