"""ICNet (Zhao et al., ECCV 2018, arXiv 1704.08545): a deep net sees the image small, shallow ones see it large."""

from torch import Tensor, nn

from u2slim.models.net import ConvFactory
from u2slim.models.pyramid import POOLED_SIDES, context
from u2slim.models.resize import size_of, upsample
from u2slim.models.resnet import Classifier, ConvBN, SemanticNet


class CascadeFusion(nn.Module):
    """Cascade feature fusion: a coarse map, enlarged and convolved with dilation, plus a finer map's projection.

    Input (B, coarse, h, w) and (B, fine, H, W), about twice as large; output (B, out, H, W), and the logits of the
    enlarged coarse map, (B, classes, H, W), for cascade label guidance.
    """

    def __init__(self, coarse: int, fine: int, out: int, classes: int, conv: ConvFactory):
        super().__init__()
        self.coarse = ConvBN(conv(coarse, out, dilation=2, stride=1, bias=False), out, relu=False)
        self.fine = ConvBN(nn.Conv2d(fine, out, 1, bias=False), out, relu=False)
        self.relu = nn.ReLU(inplace=True)
        self.guide = Classifier(coarse, classes)

    def forward(self, coarse_BCHW: Tensor, fine_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        size = size_of(fine_BCHW)
        fused = self.relu(self.coarse(upsample(coarse_BCHW, size)) + self.fine(fine_BCHW))
        # Enlarging the logits is the same as classifying the enlarged map, for a quarter of the work.
        return fused, upsample(self.guide(coarse_BCHW), size)


class ICNet(SemanticNet):
    """Image cascade network on a dilated ResNet.

    As in the authors' code, the branches of 1/2 and 1/4 share not only weights but also the pass up to the first block
    of layer2: it sees the image at 1/2, and what it makes is halved for the deep branch. The image at full resolution
    goes through three strided convolutions of its own.

    Input and arguments as `SemanticNet` says. Output: `[main, guide, guide]`, with `upsampled=False` at 1/4, 1/8 and
    1/16 of the input's size (rounded up).
    """

    outputs = ("main", "auxiliary1", "auxiliary2")

    def build(self, conv: ConvFactory) -> None:
        medium, deep = self.backbone.channels[1], self.backbone.channels[3]
        small, large = (max(1, round(channels * self.width)) for channels in (32, 64))
        self.high = nn.Sequential(
            # Three channels leave a variant nothing to save.
            ConvBN(nn.Conv2d(3, small, 3, stride=2, padding=1, bias=False), small),
            ConvBN(conv(small, small, dilation=1, stride=2, bias=False), small),
            ConvBN(conv(small, large, dilation=1, stride=2, bias=False), large),
        )
        low, out = max(1, deep // 4), max(1, deep // 8)
        self.reduce = ConvBN(nn.Conv2d(deep, low, 1, bias=False), low)
        self.fuse_low = CascadeFusion(low, medium, out, self.classes, conv)
        self.fuse_high = CascadeFusion(out, large, out, self.classes, conv)
        self.classify = Classifier(out, self.classes)

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        size = size_of(x_BCHW)
        medium = self._medium(upsample(x_BCHW, _part(size, 2)))
        low = self._deep(upsample(medium, _part(size_of(medium), 2)))
        fused, guide_16 = self.fuse_low(low, medium)
        fused, guide_8 = self.fuse_high(fused, self.high(x_BCHW))
        main = upsample(self.classify(fused), _part(size, 4))
        outputs = [main, guide_8, guide_16]
        return [upsample(output, size) for output in outputs] if upsampled else outputs

    def _medium(self, half_B3HW: Tensor) -> Tensor:
        return self.backbone.layer2[0](self.backbone.layer1(self.backbone.stem(half_B3HW)))

    def _deep(self, x_BCHW: Tensor) -> Tensor:
        _, *blocks = self.backbone.layer2.children()
        for block in blocks:
            x_BCHW = block(x_BCHW)
        x = self.backbone.layer4(self.backbone.layer3(x_BCHW))
        return self.reduce(x + sum(context(x, bins) for bins in POOLED_SIDES))


def _part(size: tuple[int, int], of: int) -> tuple[int, int]:
    return -(-size[0] // of), -(-size[1] // of)
