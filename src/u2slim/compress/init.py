"""Ways to fill a net before training."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from u2slim.cli import warn_idle
from u2slim.compress.reconstruct import check_settings, reconstruct
from u2slim.compress.statistics import measure_statistics
from u2slim.data.unlabelled import Photos
from u2slim.errors import UserError
from u2slim.files import cache_dir
from u2slim.models import ConvVariant, Net, SemanticNet, StandardConv, build_net
from u2slim.models.batch_norm import one_value_named
from u2slim.models.memory_format import to_memory_format
from u2slim.models.normalise import Normalise
from u2slim.models.resnet import ResNet
from u2slim.zoo import PUBLISHED, NetHandle, open_net
from u2slim.zoo.backbone import BACKBONE_ADDRESSES, load_backbone
from u2slim.zoo.onnx_net import is_folded

log = logging.getLogger(__name__)

PHOTOS = 32  # that tell enough of what goes on in a net


def random(net: Net, photos: Photos | None = None) -> Net:
    """Leave the net as it was built, with PyTorch's default random weights."""
    return net


def checkpoint(net: Net, path: str | Path | None = None, photos: Photos | None = None) -> Net:
    """Copy the weights of a trained net of the same structure, and nothing else of its run.

    A net that tells classes apart may start from one with another number of classes, or with one mask. Its heads then
    start from random weights.

    Args:
        net: the net to fill, in place.
        path: any name or file that `open_net` takes.
        photos: photos to measure BatchNorm's statistics on, where the file has them folded into the convolutions.

    Raises:
        UserError: there is no such net, or it has another structure.
    """
    if path is None:
        raise UserError("Say which weights to start from: init.path=FILE, a .ckpt or .onnx file, or a net by name.")
    handle = open_net(path)
    trained, file = handle.net(), handle.path()
    # Nets with the same tensors may compute different things, e.g. with and without a shuffle.
    heads = _heads_to_learn(net, trained, _modules)
    if not heads and _modules(trained) != _modules(net):
        settings = OmegaConf.to_yaml(trained.config).replace("\n", "; ")
        raise UserError(f"{file} holds another net than the model of this config: it was trained with model {settings}")
    if is_folded(trained) and photos:
        _unfold(trained, photos.squares(PHOTOS, seed=0))
    kept = _prefixes(net, heads)
    weights = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith(kept)}
    net.load_state_dict(weights, strict=not heads)
    net.preprocess = replace(trained.preprocess, size=net.preprocess.size)
    log.info("took the weights of %s%s", file, _said_of(heads, net))
    return net


def backbone(
    net: SemanticNet, weights: str | Path | None = None, method: str = "project", photos: Photos | None = None
) -> SemanticNet:
    """Fill the ResNet of a net with torchvision's weights for ImageNet; the rest stays random.

    Args:
        net: the net to fill, in place.
        weights: torchvision's file; None: the published one if the cache folder has it, else random weights.
        method: how 3x3 convolutions of another kind are filled from dense ones: `mean` or `project`.

    Raises:
        UserError: the net has no ResNet as published, the method is not known, or the file holds another net.
    """
    if not isinstance(net, SemanticNet):
        raise UserError(
            f"init=backbone fills the ResNet of a net, and {net.name} has none; use init=pretrained, or init=random."
        )
    _check_method(method, fills_of(net), net)
    fits = net.width == 1 and not net.pruned
    if weights is None and not fits:
        log.info("%s starts from random weights: ImageNet's fit only model.width=1, and no pruned net", net.name)
        return net
    if weights is None:
        address = BACKBONE_ADDRESSES[net.depth]
        weights = cache_dir() / Path(address).name
        if not weights.is_file():
            log.warning(
                "the %s starts from random weights: for ImageNet's download %s and give it as init.weights=FILE, "
                "or put it at %s",
                *(net.depth, address, weights),
            )
            return net
    if not fits:
        raise UserError(
            f"ImageNet's weights fit only model.width=1, and no pruned net, not {net.name}; use init=random."
        )
    dense = ResNet(net.depth)
    dense.load_state_dict(load_backbone(weights, net.depth))
    transfer(dense, net.backbone, method)
    log.info("filled the %s from %s", net.depth, weights)
    return net


def pretrained(
    net: Net,
    weights: str | Path | None = None,
    method: str = "lstsq",
    reestimate: bool = False,
    folder: str | Path | None = None,
    size: int | None = None,
    count: int = PHOTOS,
    seed: int = 0,
    lstsq: Mapping[str, Any] | None = None,
    photos: Photos | None = None,
) -> Net:
    """Fill a net of any kind of convolution from the dense net of the same structure, published or trained here.

    The heads of a net that tells classes apart start from random weights, unless the dense net has as many classes.

    Args:
        net: the net to fill, in place.
        weights: any name or file of a net of this structure that `open_net` takes. Convolutions that are not dense are
            multiplied out. None: the published net, downloaded on first use.
        method: how each 3x3 convolution is filled from its dense counterpart: by one of its `fills` (see
            `u2slim.models.conv`), or by `lstsq` (see `u2slim.compress.reconstruct`), which looks at photos.
        reestimate: also measure BatchNorm's statistics anew on photos.
        folder: a folder of photos to use instead of `photos`.
        size: side in pixels that photos of `folder` are resized to; None: the dense net's.
        count, seed: how many photos are drawn, and the random seed for that.
        lstsq: settings of `reconstruct`.
        photos: photos to learn from, without masks, e.g. the training images.

    Raises:
        UserError: the method is not known, photos are needed and missing, or the file holds another net.
    """
    _check_method(method, [*fills_of(net), "lstsq"], net)
    if type(count) is not int or count < 1:
        raise UserError(f"init.count={count}: give a whole number of photos, from 1.")
    if size is not None and (type(size) is not int or size < 32):
        raise UserError(f"init.size={size}: give a whole number of pixels, from 32.")
    check_settings(**(lstsq or {}))
    path, dense = _dense(net, weights)
    net.preprocess = replace(dense.preprocess, size=net.preprocess.size)
    if folder:
        photos = Photos.below(folder, size or dense.preprocess.size)
    if not folder:
        warn_idle("it is for the photos of init.folder", "init.size")
    squares_N3HW = None
    if is_folded(dense) and photos:
        squares_N3HW = photos.squares(count, seed)
        _unfold(dense, squares_N3HW)
    heads = _heads_to_learn(net, dense, _layout)
    transfer(dense, net, "project" if method == "lstsq" else method, heads)
    variants = [conv for conv in net.modules() if isinstance(conv, ConvVariant)]
    is_copy = all(isinstance(conv, StandardConv) and not conv.bits for conv in variants)
    if is_copy:
        warn_idle("the net is the dense one, whose weights are copied", "init.method", "init.reestimate", "init.lstsq")
    elif method != "lstsq":
        warn_idle(f"it is for init.method=lstsq, not {method}", "init.lstsq")
    if squares_N3HW is None and (is_copy or not (method == "lstsq" or reestimate)):
        warn_idle("no photos are looked at", "init.folder", "init.count", "init.seed")
    if not is_copy and (method == "lstsq" or reestimate):
        if not photos:
            raise UserError(
                "init.method=lstsq and init.reestimate learn from photos, without masks: name a folder of photos with "
                "init.folder=DIR, or use init.method=project init.reestimate=false."
            )
        if squares_N3HW is None:
            squares_N3HW = photos.squares(count, seed)
        input_N3HW = Normalise(net.preprocess)(squares_N3HW)
        input_N3HW = input_N3HW.contiguous(memory_format=torch.channels_last)
        if method == "lstsq":
            reconstruct(dense, to_memory_format(net, torch.channels_last), input_N3HW, seed=seed, **(lstsq or {}))
        if reestimate:
            # All photos as one batch: averages of small batches' variances come out too small.
            with one_value_named("give more photos with init.count, or a larger init.size"):
                update_bn([input_N3HW], net)
        net.train()  # as it was built: Lightning trains a net in the mode that it finds
    log.info("filled the net from %s (method: %s)%s", path, method, _said_of(heads, net))
    return net


def _unfold(dense: Net, squares_N3HW: Tensor) -> None:
    """Measure BatchNorm's statistics for a net from an ONNX file, so that it can be trained; masks stay the same."""
    log.info("measuring BatchNorm's statistics of %s on %d photos", dense.name, len(squares_N3HW))
    input_N3HW = Normalise(dense.preprocess)(squares_N3HW)
    measure_statistics(dense, input_N3HW.contiguous(memory_format=torch.channels_last))


def fills_of(net: nn.Module) -> list[str]:
    """The methods by which every convolution of a net can be filled from dense weights."""
    tables = [conv.fills for conv in net.modules() if isinstance(conv, ConvVariant)]
    return [method for method in StandardConv.fills if all(method in table for table in tables)]


def _check_method(method: str, known: Sequence[str], net: Net) -> None:
    if method not in known:
        raise UserError(f"init.method={method} is not known for {net.name}; choose one of: {', '.join(known)}.")


def _dense(net: Net, weights: str | Path | None) -> tuple[Path, Net]:
    """The dense net to fill `net` from, and its file."""
    handle = open_net(weights) if weights else _published(net)
    dense, path = handle.net(), handle.path()
    if not all(isinstance(conv, StandardConv) for conv in dense.modules() if isinstance(conv, ConvVariant)):
        if (same := densified(dense)) is None:
            raise UserError(f"{path} is not a dense net, but {dense.name}; give one trained with StandardConv.")
        dense = same
    ours, theirs = _layout(net), _layout(dense)
    if ours != theirs and not _heads_to_learn(net, dense, _layout):
        name = min(ours.items() ^ theirs.items())[0]
        own = _plain(net)
        fitting = ", ".join(f"model.{key}={value}" for key, value in _plain(dense).items() if own.get(key) != value)
        raise UserError(
            f"{path} holds {dense.name}, not a dense {net.name}: they differ in {name}. "
            + (f"Use {fitting}." if fitting else "Give the dense net of this model.")
        )
    return path, dense


def _published(net: Net) -> NetHandle:
    """The published net of this structure."""
    for name, record in PUBLISHED.items():
        if record.config is None:
            continue
        with torch.device("meta"):
            published = build_net(record.config)
            if _layout(published) == _layout(net) or _heads_to_learn(net, published, _layout):
                return open_net(name)
    raise UserError(
        f"No {net.name} is published: give a checkpoint of its dense net as init.weights=FILE.ckpt, "
        "or ImageNet's ResNet with init=backbone."
    )


def _plain(net: Net) -> dict[str, Any]:
    """The settings of a net that are neither its class nor its convolutions."""
    config = net.config or {}
    return {key: value for key, value in config.items() if isinstance(value, str | int | float) and key != "_target_"}


def _layout(net: Net, but: Collection[nn.Module] = ()) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that are neither a convolution variant's own nor of the modules in `but`."""
    variants = [module for module in net.modules() if isinstance(module, ConvVariant)]
    passed = _prefixes(net, [*variants, *but])
    return {name: tuple(t.shape) for name, t in net.state_dict().items() if not name.startswith(passed)}


def _modules(net: Net, but: Collection[nn.Module] = ()) -> dict[str, str]:
    """Each module's class and settings, but for those in `but`."""
    return {
        name: f"{type(module).__name__}({module.extra_repr()})"
        for name, module in net.named_modules()
        if module not in but
    }


def _prefixes(net: Net, modules: Collection[nn.Module]) -> tuple[str, ...]:
    """What the names of these modules' tensors begin with."""
    return tuple(f"{name}." for name, module in net.named_modules() if module in modules)


def _heads_to_learn(net: Net, source: Net, described: Callable[..., object]) -> list[nn.Module]:
    """The heads of a net with classes, where they are all that it has otherwise than the net that it is filled from."""
    if net.classes is None or described(net) == described(source):
        return []
    return net.heads if described(net, net.heads) == described(source, source.heads) else []


def _said_of(heads: Collection[nn.Module], net: Net) -> str:
    return f"; its heads, of {net.classes} classes, start from random weights" if heads else ""


@torch.no_grad()
def densified(net: Net) -> Net | None:
    """The dense net, in evaluation mode, that computes the same as a net of other convolutions.

    Returns:
        the dense net; None if its convolutions would need a bias that they do not have, as in ResNets.
    """
    assert net.config is not None, "a net that build_net made"
    plain = {key: value for key, value in net.config.items() if key not in ("conv", "stem", "ranks")}
    variants = {name: conv for name, conv in net.named_modules() if isinstance(conv, ConvVariant)}
    parts = tuple(f"{name}." for name in variants)
    state = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(parts)}
    for name, conv in variants.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = conv.as_dense()
    dense = build_net(plain)
    if dense.state_dict().keys() != state.keys():
        return None
    dense.load_state_dict(state)
    dense.preprocess = net.preprocess
    return dense.eval()


@torch.no_grad()
def transfer(dense: nn.Module, net: nn.Module, method: str, but: Collection[nn.Module] = ()) -> None:
    """Fill `net` from `dense`, a net of the same structure with standard convolutions.

    Convolution variants are filled by `method`, one of their `fills`; everything else (BatchNorm with its statistics,
    1x1 convolutions, heads) is carried over, except into the modules in `but`.
    """
    if net in but:
        return
    if isinstance(net, ConvVariant):
        assert isinstance(dense, nn.Conv2d)
        net.fills[method](net, dense.weight, dense.bias)
        return
    for name, tensor in (*net.named_parameters(recurse=False), *net.named_buffers(recurse=False)):
        tensor.copy_(getattr(dense, name))
    for name, child in net.named_children():
        transfer(getattr(dense, name), child, method, but)
