"""Ways to fill a net before training."""

import logging
from pathlib import Path

import torch
from torch import nn

from src.models import ConvVariant, U2Net
from src.weights import fetch, load_published

log = logging.getLogger(__name__)


def random(net: nn.Module) -> nn.Module:
    """PyTorch's default initialisation, as the net was built."""
    return net


def pretrained(net: U2Net, weights: str | Path | None = None, method: str = "mean") -> U2Net:
    """Fill any variant from the published dense net of the same width.

    Args:
        net: the net to fill, in place.
        weights: a published `.pth` file; None downloads it on first use.
        method: how each 3x3 convolution takes over its dense counterpart, see `src.models.conv`.
    """
    path = Path(weights) if weights else fetch(net.width)
    dense = U2Net(net.width)
    dense.load_state_dict(load_published(path, net.width))
    transfer(dense, net, method)
    log.info("filled the net from %s (method: %s)", path, method)
    return net


@torch.no_grad()
def transfer(dense: nn.Module, net: nn.Module, method: str) -> None:
    """Fill `net` from `dense`, a net of the same structure with standard convolutions.

    Convolution variants are filled by `method`; everything else (BatchNorm with its statistics, side heads,
    the fusing convolution) is carried over.
    """
    if isinstance(net, ConvVariant):
        net.fill_from(dense.weight, dense.bias, method)
        return
    for name, tensor in (*net.named_parameters(recurse=False), *net.named_buffers(recurse=False)):
        tensor.copy_(getattr(dense, name))
    for name, child in net.named_children():
        transfer(getattr(dense, name), child, method)
