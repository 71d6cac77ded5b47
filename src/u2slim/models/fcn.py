"""FCN-8s (Long et al., CVPR 2015, arXiv 1411.4038) on a ResNet in place of its VGG-16."""

import torch
from torch import Tensor, nn

from u2slim.models.net import ConvFactory
from u2slim.models.resize import size_of
from u2slim.models.resnet import Classifier, SemanticNet


class LearnedUpsampling(nn.ConvTranspose2d):
    """Enlarges (B, C, h, w) `times` times with learned weights, which begin as bilinear interpolation of each channel.

    Beyond the border it sees zeros, where `F.interpolate` repeats the border.
    """

    def __init__(self, channels: int, times: int):
        super().__init__(channels, channels, 2 * times, times, padding=times // 2, bias=False)
        centre = torch.arange(2 * times) - (times - 0.5)
        line = 1 - centre.abs() / times
        with torch.no_grad():
            self.weight.copy_(torch.eye(channels)[:, :, None, None] * line[:, None] * line)


class FCN(SemanticNet):
    """Scores at 1/32, 1/16 and 1/8 of the resolution, each enlarged by learned upsampling and added to the next.

    Input, arguments and output as `SemanticNet` says: one output, always of the input's size.
    """

    outputs = ("main",)
    dilated = False

    def build(self, conv: ConvFactory) -> None:
        self.scores = nn.ModuleList(Classifier(channels, self.classes) for channels in self.backbone.channels[1:])
        self.doubling = nn.ModuleList(LearnedUpsampling(self.classes, 2) for _ in range(2))
        self.enlarge = LearnedUpsampling(self.classes, 8)

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        eighth, sixteenth, total = (
            score(feature) for score, feature in zip(self.scores, self.backbone(x_BCHW)[1:], strict=True)
        )
        for double, score in zip(self.doubling, (sixteenth, eighth), strict=True):
            total = cut(double(total), size_of(score)) + score
        return [cut(self.enlarge(total), size_of(x_BCHW))]


def cut(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """A map without what is beyond that size (H, W): strides round up, so an enlarged one may be a little too large."""
    return x_BCHW if size_of(x_BCHW) == size else x_BCHW[:, :, : size[0], : size[1]]
