"""ONNX files read into our own nets: published ones, and those that `export.py` wrote of a net in another form."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from torch import nn

from u2slim.errors import UserError
from u2slim.images.preprocess import Preprocess
from u2slim.models import Net, build_net
from u2slim.models.hooks import outputs_of
from u2slim.models.u2net import convolutions
from u2slim.runtime.onnx_convolutions import Convolution, OnnxConvolutions, read_convolutions
from u2slim.runtime.onnx_reader import named_size
from u2slim.zoo.records import structures

_SEPARABLE = "separable"


def net_of_onnx(path: str | Path) -> Net:
    """The net in an ONNX file, in evaluation mode.

    Its structure is a published one, as it is or with convolutions of low rank or depthwise-separable ones. The latter
    are told by the names that our files give convolutions: `encoder.0.stem.conv.reduce`. The file has BatchNorm folded
    into its convolutions. So the net gets these, and BatchNorms that do nothing (`is_folded`); and what the file says
    of its size and normalisation.

    Raises:
        UserError: the file is missing, a web page, truncated, or holds another net; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No net at {path}.")
    file = read_convolutions(path)
    named = {convolution.name: convolution for convolution in file.convolutions}
    differences = []
    for name, published in structures().items():
        config = _as_named(published, named)
        try:
            modules, names = _layout_of(name) if config is None else _layout_as_named(config, named)
        except InstantiationException:
            differences.append(f"{name}: ranks that it cannot have")
            continue
        paired = _paired(modules, names, file.convolutions)
        if difference := _difference(modules, paired, len(file.convolutions)):
            differences.append(f"{name}: {difference}")
            continue
        net = _filled(config or published, paired)
        net.preprocess = _preprocess_of(path, file, net.preprocess)
        return net
    raise UserError(
        f"{path} holds no net that torch can build from an ONNX file ({'; '.join(differences)}). Give a file of one "
        f"of these, or the checkpoint, a .ckpt or .pth file, that it was made of."
    )


def is_folded(net: nn.Module) -> bool:
    """Whether every BatchNorm leaves what it gets as it is, so that it has no statistics to train by."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    shifts = [tensor for norm in norms for tensor in (norm.bias, norm.running_mean) if tensor is not None]
    return bool(norms) and not any(tensor.any() for tensor in shifts)


def _as_named(published: Mapping[str, Any], named: Mapping[str, Convolution]) -> Mapping[str, Any] | None:
    """The config of a published structure with its 3x3 convolutions in the forms that a file's names tell.

    Returns:
        None where they are not the names that our files give.
    """
    forms = {
        stage: {name: _form_of(f"{stage}.{name}.conv", named) for name in own} for stage, own in convolutions().items()
    }
    found = [form for own in forms.values() for form in own.values()]
    if None in found:
        return None
    if _SEPARABLE in found:
        is_dense = forms["encoder.0"]["stem"] == 0
        return dict(published) | _conv("conv", "DepthwiseSeparable") | (_conv("stem", "Standard") if is_dense else {})
    if not any(found):
        return published
    ranks = {published["width"]: forms} if "width" in published else forms
    return dict(published) | _conv("conv", "LowRank") | {"ranks": ranks}


def _conv(setting: str, kind: str) -> dict[str, Any]:
    return {setting: {"_target_": f"u2slim.models.{kind}Conv", "_partial_": True}}


def _form_of(conv: str, named: Mapping[str, Convolution]) -> str | int | None:
    """In which form a file has a 3x3 convolution: of ranks, as `rsu.factories` takes them, or separable; None: none."""
    if conv in named:
        return 0
    if f"{conv}.pointwise" in named:
        return _SEPARABLE
    if (reduce := named.get(f"{conv}.reduce")) is None:
        return None
    rank, narrow = len(reduce.weight_OIKK), named.get(f"{conv}.narrow")
    return rank if narrow is None else f"{len(narrow.weight_OIKK)}-{rank}"


def _layout_as_named(
    config: Mapping[str, Any], named: Mapping[str, Convolution]
) -> tuple[dict[str, nn.Conv2d], dict[str, str]]:
    """The convolutions of a net whose names a file has, without heads for training alone that it lacks."""
    with torch.device("meta"):
        net = build_net(config)
    modules = _convolutions_of(net)
    if net.outputs[0] != "fused":  # into which all heads go
        spare = net.heads[1:]
        modules = {name: module for name, module in modules.items() if name in named or module not in spare}
    return modules, {name: name for name in modules}


@cache
def _layout_of(name: str) -> tuple[dict[str, nn.Conv2d], dict[str, str]]:
    """The convolutions of a structure, and what the published net calls its modules, by ours."""
    with torch.device("meta"):
        net = build_net(structures()[name])
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
        if one.bias_O is not None and (module.bias is None or one.bias_O.shape != module.bias.shape):
            return f"convolution {number} ({one.name}) has a bias of shape {one.bias_O.shape}"
        if not np.isfinite(one.weight_OIKK).all() or (one.bias_O is not None and not np.isfinite(one.bias_O).all()):
            return f"convolution {number} ({one.name}) has NaN or infinite weights"
    return ""


@torch.no_grad()
def _filled(config: Mapping[str, Any], paired: Mapping[str, Convolution]) -> Net:
    """A net in evaluation mode of these convolutions, zeros where there is none, and BatchNorms that do nothing."""
    net = build_net(config)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            found = paired.get(name)
            module.weight.zero_() if found is None else module.weight.copy_(torch.tensor(found.weight_OIKK))
            if module.bias is not None:
                bias_O = None if found is None else found.bias_O
                module.bias.zero_() if bias_O is None else module.bias.copy_(torch.tensor(bias_O))
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(1 - module.eps)
    return net.eval()
