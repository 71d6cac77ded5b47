"""ParseNet (Liu et al., ICLR workshop 2016, arXiv 1506.04579) on a ResNet in place of its VGG-16."""

import torch
from torch import Tensor, nn

from u2slim.models.net import ConvFactory
from u2slim.models.resize import size_of, upsample
from u2slim.models.resnet import Classifier, ConvBN, SemanticNet


class L2Norm(nn.Module):
    """Divides each pixel's features (B, C, H, W) by their Euclidean length and multiplies each channel by its scale."""

    def __init__(self, channels: int, scale: float = 10.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), scale))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # float32, as squares of half-precision numbers overflow.
        length_B1HW = (x_BCHW.float().square().sum(1, keepdim=True) + 1e-12).sqrt()
        return (x_BCHW / length_B1HW).to(x_BCHW.dtype) * self.scale


class ParseNet(SemanticNet):
    """Each pixel's features beside their mean over the whole image, both L2-normalised, classified together.

    Input and arguments as `SemanticNet` says. Output: one, with `upsampled=False` at 1/8 of the input's size (rounded
    up).
    """

    outputs = ("main",)

    def build(self, conv: ConvFactory) -> None:
        deep = self.backbone.channels[3]
        quarter = max(1, deep // 4)
        self.head = ConvBN(conv(deep, quarter, dilation=1, stride=1, bias=False), quarter)
        self.norm, self.context_norm = L2Norm(quarter), L2Norm(quarter)
        self.classify = Classifier(quarter, self.classes)
        self.classify_context = Classifier(quarter, self.classes, bias=False)

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        features = self.head(self.backbone(x_BCHW)[3])
        context_BC11 = features.mean((2, 3), keepdim=True)
        # Classifying the context once is the same as laying it beside every pixel.
        logits = self.classify(self.norm(features)) + self.classify_context(self.context_norm(context_BC11))
        return [upsample(logits, size_of(x_BCHW)) if upsampled else logits]
