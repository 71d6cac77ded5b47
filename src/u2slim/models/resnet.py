"""ResNets (He et al., CVPR 2016, arXiv 1512.03385) as features for segmentation, named as torchvision names theirs."""

from typing import ClassVar

from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.models.conv import ConvVariant, StandardConv
from u2slim.models.net import ConvFactory, Net


class Bottleneck(nn.Module):
    """1x1 to a quarter of the channels, 3x3 (which strides: "v1.5"), 1x1 back, added to the input."""

    expansion: ClassVar[int] = 4
    before_sum: ClassVar[str] = "bn3"

    def __init__(self, in_channels: int, planes: int, stride: int, dilation: int, conv: ConvFactory):
        super().__init__()
        out_channels = planes * self.expansion
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, dilation=dilation, stride=stride, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x_BCHW)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x_BCHW if self.downsample is None else self.downsample(x_BCHW)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to the input."""

    expansion: ClassVar[int] = 1
    before_sum: ClassVar[str] = "bn2"

    def __init__(self, in_channels: int, planes: int, stride: int, dilation: int, conv: ConvFactory):
        super().__init__()
        self.conv1 = conv(in_channels, planes, dilation=dilation, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(planes, planes, dilation=dilation, stride=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _downsample(in_channels, planes, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x_BCHW)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x_BCHW if self.downsample is None else self.downsample(x_BCHW)))


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


BACKBONES: dict[str, tuple[type[Bottleneck | BasicBlock], tuple[int, ...]]] = {
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
}


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Args:
        backbone: `resnet50` or `resnet18`.
        conv: makes each 3x3 convolution, called as `conv(in, out, dilation=d, stride=s, bias=False)`.
        width: times the published channels.
        dilated: layer3 and layer4 keep 1/8 of the input's resolution and dilate by 2 and 4, instead of going down to
            1/16 and 1/32.

    Input: normalised RGB (B, 3, H, W). Output: the features of layer1 ... layer4. At width 1, with `StandardConv`, the
    state dictionary is that of torchvision's ResNet but for `fc`.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self, backbone: str = "resnet50", conv: ConvFactory = StandardConv, width: float = 1.0, dilated: bool = True
    ):
        super().__init__()
        if backbone not in BACKBONES:
            raise UserError(f"model.backbone={backbone} is not known; choose one of: {', '.join(BACKBONES)}.")
        if isinstance(width, str) or not 0 < width <= 4:
            raise UserError(f"model.width={width}: give how many times as wide as published the net is, e.g. 1 or 0.5.")
        block, depths = BACKBONES[backbone]
        planes = [max(1, round(64 * 2**level * width)) for level in range(4)]
        strides, dilations = ((1, 2, 1, 1), (1, 1, 2, 4)) if dilated else ((1, 2, 2, 2), (1, 1, 1, 1))
        self.conv1 = nn.Conv2d(3, planes[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.channels = [out * block.expansion for out in planes]
        inputs = [planes[0], *self.channels]
        for level in range(4):
            blocks = [
                block(
                    self.channels[level] if number else inputs[level],
                    planes[level],
                    1 if number else strides[level],
                    dilations[level],
                    conv,
                )
                for number in range(depths[level])
            ]
            self.add_module(f"layer{level + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.layer1, *self.layer2, *self.layer3, *self.layer4]

    def stem(self, x_B3HW: Tensor) -> Tensor:
        """What layer1 takes, at 1/4 of the resolution."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x_B3HW))))

    def forward(self, x_B3HW: Tensor) -> list[Tensor]:
        x = self.stem(x_B3HW)
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


class ConvBN(nn.Sequential):
    """A convolution, BatchNorm and, unless `relu` is false because a sum comes first, ReLU."""

    def __init__(self, conv: nn.Module, out_channels: int, relu: bool = True):
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(out_channels)
        if relu:
            self.relu = nn.ReLU(inplace=True)


class Classifier(nn.Conv2d):
    """A logit of each class from each pixel's features."""

    def __init__(self, in_channels: int, classes: int, bias: bool = True):
        super().__init__(in_channels, classes, 1, bias=bias)


class SemanticNet(Net):
    """What the nets on a ResNet share.

    Args:
        classes: of the output.
        conv: makes each 3x3 convolution with more than three inputs, called as
            `conv(in, out, dilation=d, stride=s, bias=False)`: a class of `u2slim.models.conv` or a partial of one.
        width: times the published channels, heads included.
        backbone: `resnet50` or `resnet18`.

    Input: normalised RGB (B, 3, H, W), any H, W >= 32. Output: a list of logits (B, classes, h, w), the main output
    first; (h, w) is the input's size, or with `upsampled=False` the size at which each is made.
    """

    dilated: ClassVar[bool] = True  # see `ResNet`
    classes: int

    def __init__(
        self,
        classes: int = 19,
        conv: ConvFactory = StandardConv,
        width: float = 1.0,
        backbone: str = "resnet50",
    ):
        super().__init__()
        if type(classes) is not int or classes < 1:
            raise UserError(f"model.classes={classes}: give a whole number from 1.")
        self.classes, self.width, self.depth = classes, width, backbone
        self.backbone = ResNet(backbone, conv, width, self.dilated)
        self.build(conv)

    def build(self, conv: ConvFactory) -> None:
        """Add what comes after the backbone."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Net, backbone and what is not as published, for file names and tables: `icnet-resnet50-x0.5-dwsep`."""
        parts = [type(self).__name__.lower(), self.depth]
        if self.width != 1:
            parts.append(f"x{self.width:g}")
        variants = {module.variant for module in self.modules() if isinstance(module, ConvVariant)}
        parts += sorted(variants - {StandardConv.variant})
        return "-".join(parts + ["pruned"] * self.pruned)

    @property
    def stages(self) -> list[nn.Module]:
        """The blocks between which little is kept: where activation checkpointing cuts."""
        return self.backbone.blocks

    @property
    def heads(self) -> list[nn.Module]:
        """What makes the logits."""
        return [module for module in self.modules() if isinstance(module, Classifier)]
