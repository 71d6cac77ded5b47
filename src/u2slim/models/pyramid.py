"""Averages of a map over grids of few windows: PSPNet's pyramid pooling."""

import torch.nn.functional as F
from torch import Tensor

from u2slim.models.resize import size_of, upsample

POOLED_SIDES = (1, 2, 3, 6)


def pooled(x_BCHW: Tensor, bins: int) -> Tensor:
    """Means over `bins` x `bins` equal windows, or over one for each pixel along a side that has fewer.

    Where `bins` does not divide a side, the windows overlap. Unlike those of adaptive pooling they are all of one size,
    so that every runtime computes them.
    """
    sides = x_BCHW.shape[2:]
    counts = [min(bins, side) for side in sides]
    strides = [side // count for side, count in zip(sides, counts, strict=True)]
    windows = [side - (count - 1) * stride for side, count, stride in zip(sides, counts, strides, strict=True)]
    return F.avg_pool2d(x_BCHW, windows, strides)


def context(x_BCHW: Tensor, bins: int) -> Tensor:
    """The means, enlarged again to the map's size."""
    return upsample(pooled(x_BCHW, bins), size_of(x_BCHW))
