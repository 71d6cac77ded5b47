"""Ways to fill a net before training."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim.swa_utils import update_bn

from u2slim.compress.reconstruct import check_settings, reconstruct
from u2slim.data.photos import Photos
from u2slim.errors import UserError
from u2slim.files import cache_dir
from u2slim.models import ConvVariant, SemanticNet, StandardConv, U2Net
from u2slim.models.preprocess import Preprocess
from u2slim.models.resnet import ResNet
from u2slim.zoo.checkpoints import load_net, resolve
from u2slim.zoo.published import BACKBONES, fetch, load_backbone, published_net

log = logging.getLogger(__name__)


METHODS = ("mean", "project", "lstsq")


def random(net: nn.Module, photos: Photos | None = None) -> nn.Module:
    """PyTorch's default initialisation, as the net was built."""
    return net


def checkpoint(net: nn.Module, path: str | Path | None = None, photos: Photos | None = None) -> nn.Module:
    """Take over the weights of a training checkpoint of the same net, and nothing else of its run.

    Raises:
        UserError: there is no such checkpoint, or it holds another net.
    """
    if path is None:
        raise UserError("Say which weights to begin with: init.path=FILE, a .ckpt or a shipped net.")
    file = resolve(path)
    trained, _ = load_net(str(file))
    # Nets with the same tensors may compute different things, e.g. with and without a shuffle.
    if repr(trained) != repr(net):
        settings = OmegaConf.to_yaml(trained.config).replace("\n", "; ")
        raise UserError(f"{file} is another net than the model configured here: it was trained with model {settings}")
    net.load_state_dict(trained.state_dict())
    log.info("took the weights of %s", file)
    return net


def backbone(
    net: SemanticNet, weights: str | Path | None = None, method: str = "project", photos: Photos | None = None
) -> SemanticNet:
    """Fill the ResNet of a net with what torchvision publishes for ImageNet; the rest stays random.

    Args:
        net: the net to fill, in place.
        weights: a file of torchvision's; None: the published one if the cache folder has it, or else random weights.
        method: how a 3x3 convolution of another kind takes over its dense counterpart: `mean` or `project`.

    Raises:
        UserError: the net has no ResNet as published, an unknown method, or a file that holds another net.
    """
    if not isinstance(net, SemanticNet):
        raise UserError(f"init=backbone fills the ResNet of a net, and {net.name} has none; use init=pretrained.")
    if method not in METHODS[:2]:
        raise UserError(f"init.method={method} is not known here; choose one of: {', '.join(METHODS[:2])}.")
    fits = net.width == 1 and not net.pruned
    if weights is None and not fits:
        log.info("%s begins at random: ImageNet's weights fit model.width=1 and no pruned net", net.name)
        return net
    if weights is None:
        address = BACKBONES[net.depth]
        weights = cache_dir() / Path(address).name
        if not weights.is_file():
            log.warning(
                "the %s begins at random: for ImageNet's weights download %s and give it as init.weights=FILE, "
                "or put it at %s",
                *(net.depth, address, weights),
            )
            return net
    if not fits:
        raise UserError(f"ImageNet's weights fit model.width=1 and no pruned net, not {net.name}; use init=random.")
    dense = ResNet(net.depth)
    dense.load_state_dict(load_backbone(weights, net.depth))
    transfer(dense, net.backbone, method)
    log.info("filled the %s from %s", net.depth, weights)
    return net


def pretrained(
    net: U2Net | SemanticNet,
    weights: str | Path | None = None,
    method: str = "lstsq",
    reestimate: bool = False,
    folder: str | Path | None = None,
    size: int = 320,
    count: int = 32,
    seed: int = 0,
    lstsq: Mapping[str, Any] | None = None,
    photos: Photos | None = None,
) -> U2Net | SemanticNet:
    """Fill any variant from the dense net of the same structure, published or trained here.

    Args:
        net: the net to fill, in place.
        weights: a published `.pth` file or a training checkpoint `.ckpt`; None downloads U2-Net's on first use.
        method: how each 3x3 convolution takes over its dense counterpart: by `mean` or `project` (see
            `u2slim.models.conv`), or `lstsq` (see `u2slim.compress.reconstruct`), which looks at photos.
        reestimate: also measure BatchNorm's statistics anew on photos.
        folder, size: photos to use instead of `photos`, and the side they are resized to.
        count, seed: how many are drawn, and from which random state.
        lstsq: settings of `reconstruct`.
        photos: those to learn from without their masks, e.g. the training images.

    Raises:
        UserError: an unknown method, no photos where they are needed, or a file that is not the published net.
    """
    if method not in METHODS:
        raise UserError(f"init.method={method} is not known; choose one of: {', '.join(METHODS)}.")
    if type(count) is not int or count < 1:
        raise UserError(f"init.count={count}: give a whole number of photos, from 1.")
    if type(size) is not int or size < 32:
        raise UserError(f"init.size={size}: give a whole number of pixels, from 32.")
    check_settings(**(lstsq or {}))
    path, dense = _dense(net, weights)
    transfer(dense, net, "project" if method == "lstsq" else method)
    is_copy = all(isinstance(conv, StandardConv) for conv in net.modules() if isinstance(conv, ConvVariant))
    if not is_copy and (method == "lstsq" or reestimate):
        if folder:
            photos = Photos.below(folder, size)
        if not photos:
            raise UserError(
                "init.method=lstsq and init.reestimate learn from photos, masks are not needed: name a folder of some "
                "with init.folder=DIR, or use init.method=project init.reestimate=false."
            )
        input_N3HW = Preprocess()(photos.squares(count, seed)).contiguous(memory_format=torch.channels_last)
        if method == "lstsq":
            reconstruct(dense, net.to(memory_format=torch.channels_last), input_N3HW, seed=seed, **(lstsq or {}))
        if reestimate:
            # All photos as one batch: averages of small batches' variances come out too small.
            update_bn([input_N3HW], net)
        net.train()  # as it was built: Lightning trains a net in the mode that it finds
    log.info("filled the net from %s (method: %s)", path, method)
    return net


def _dense(net: U2Net | SemanticNet, weights: str | Path | None) -> tuple[Path, nn.Module]:
    """The dense net to fill `net` from, and its file."""
    if weights and str(weights).endswith(".ckpt"):
        path = resolve(weights)
        dense, _ = load_net(str(path))
        if any(isinstance(conv, ConvVariant) and not isinstance(conv, StandardConv) for conv in dense.modules()):
            raise UserError(f"{path} is not a dense net, but {dense.name}; give one trained with StandardConv.")
        ours, theirs = _layout(net), _layout(dense)
        if ours != theirs:
            name = min(ours.items() ^ theirs.items())[0]
            raise UserError(f"{path} holds {dense.name}, not a dense {net.name}: they differ in {name}.")
        return path, dense
    if isinstance(net, SemanticNet):
        raise UserError(
            f"No {net.name} is published: give a checkpoint of its dense net as init.weights=FILE.ckpt, "
            "or ImageNet's ResNet with init=backbone."
        )
    path = Path(weights) if weights else fetch(net.width)
    return path, published_net(net.width, path)


def _layout(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that are no convolution variant's own."""
    variants = tuple(f"{name}." for name, module in net.named_modules() if isinstance(module, ConvVariant))
    return {name: tuple(t.shape) for name, t in net.state_dict().items() if not name.startswith(variants)}


@torch.no_grad()
def transfer(dense: nn.Module, net: nn.Module, method: str) -> None:
    """Fill `net` from `dense`, a net of the same structure with standard convolutions.

    Convolution variants are filled by `method`, `mean` or `project`; everything else (BatchNorm with its statistics,
    1x1 convolutions, heads) is carried over.
    """
    if isinstance(net, ConvVariant):
        fill = net.fill_mean if method == "mean" else net.fill_project
        fill(dense.weight, dense.bias)
        return
    for name, tensor in (*net.named_parameters(recurse=False), *net.named_buffers(recurse=False)):
        tensor.copy_(getattr(dense, name))
    for name, child in net.named_children():
        transfer(getattr(dense, name), child, method)
