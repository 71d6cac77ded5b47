"""Stand-ins for a 3x3 convolution, each of which can also take over a dense convolution's weights."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from src.errors import UserError


class ConvVariant:
    """What a variant adds to its `nn.Module`: how to fill itself from a dense 3x3 convolution.

    A subclass names in `methods` the ways it knows; each is a method `fill_<name>(weight_OI33, bias_O)`.
    """

    variant: ClassVar[str]
    methods: ClassVar[tuple[str, ...]] = ("mean",)

    @torch.no_grad()
    def fill_from(self, weight_OI33: Tensor, bias_O: Tensor, method: str = "mean") -> None:
        """Set every parameter from a dense convolution of the same channels, dilation and padding."""
        if method not in self.methods:
            raise UserError(f"init.method={method} is not known; choose one of: {', '.join(self.methods)}.")
        getattr(self, f"fill_{method}")(weight_OI33, bias_O)


class StandardConv(ConvVariant, nn.Conv2d):
    """The dense 3x3 convolution of the published nets."""

    variant = "standard"

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        super().__init__(in_channels, out_channels, 3, padding=dilation, dilation=dilation)

    def fill_mean(self, weight_OI33: Tensor, bias_O: Tensor) -> None:
        self.weight.copy_(weight_OI33)
        self.bias.copy_(bias_O)


class GroupedConv(ConvVariant, nn.Conv2d):
    """A 3x3 convolution in `groups` groups; the 3-channel stem stays dense.

    `mean`: adjacent input channels are averaged in runs of `groups`, so that a dense weight (O, I, 3, 3)
    becomes (O, I/groups, 3, 3).
    """

    variant = "grouped"

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1, groups: int = 2):
        if in_channels == 3:
            groups = 1
        if in_channels % groups or out_channels % groups:
            raise UserError(f"model.conv.groups={groups} does not divide {in_channels} -> {out_channels} channels.")
        super().__init__(in_channels, out_channels, 3, padding=dilation, dilation=dilation, groups=groups)

    def fill_mean(self, weight_OI33: Tensor, bias_O: Tensor) -> None:
        out_channels, in_channels = weight_OI33.shape[:2]
        runs = weight_OI33.reshape(out_channels, in_channels // self.groups, self.groups, 3, 3)
        self.weight.copy_(runs.mean(2))
        self.bias.copy_(bias_O)


class DepthwiseSeparableConv(ConvVariant, nn.Sequential):
    """A depthwise 3x3 convolution followed by a pointwise 1x1, both with bias.

    `mean`: the depthwise weight is the dense weight's mean over the outputs and its bias is zero; the
    pointwise weight is the dense weight's mean over the 3x3 window and its bias is the dense bias.
    """

    variant = "dwsep"

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def fill_mean(self, weight_OI33: Tensor, bias_O: Tensor) -> None:
        self.depthwise.weight.copy_(weight_OI33.mean(0, keepdim=True).transpose(0, 1))
        self.depthwise.bias.zero_()
        self.pointwise.weight.copy_(weight_OI33.mean((2, 3), keepdim=True))
        self.pointwise.bias.copy_(bias_O)
