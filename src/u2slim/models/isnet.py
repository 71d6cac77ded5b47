"""IS-Net (Qin et al., ECCV 2022, arXiv 2203.03041), U2-Net's successor for large photos."""

from collections.abc import Mapping

from torch import Tensor, nn

from u2slim.images.preprocess import ISNET_PREPROCESS
from u2slim.models.conv import StandardConv
from u2slim.models.net import ConvFactory
from u2slim.models.resize import size_of, upsample
from u2slim.models.rsu import RSUNet, factories
from u2slim.models.u2net import convolutions, stages_of


class ISNet(RSUNet):
    """U2-Net's stages at full width, behind a convolution that halves the photo; its first side output is the answer.

    Args:
        conv: makes each 3x3 convolution of the blocks, as in `U2Net`. The one before them has three input channels and
            neither BatchNorm nor ReLU, and is dense in every variant.
        ranks: by stage and convolution what `rsu.factories` takes; `compress.ranks` chooses them.
        classes: that it tells apart; None: it makes a mask.

    Input: normalised RGB (B, 3, H, W), any H, W >= 64, published for 1024 pixels. Output: a list of six logits
    `[side1, ..., side6]`, each (B, 1 or classes, H, W); with `upsampled=False` of the sizes at which they are made,
    from 1/2 down to 1/64.
    """

    outputs = ("side1", "side2", "side3", "side4", "side5", "side6")
    preprocess = ISNET_PREPROCESS
    kind = "isnet"

    def __init__(
        self,
        conv: ConvFactory = StandardConv,
        ranks: Mapping[str, Mapping[str, str | int]] | None = None,
        classes: int | None = None,
    ):
        encoder, decoder = stages_of("full")
        encoder[0] = (7, False, (64, 32, 64))
        named = None if ranks is None else factories(ranks, convolutions(), conv, "model.ranks")
        super().__init__(encoder, decoder, conv, named, classes=classes)
        self.halve = nn.Conv2d(3, 64, 3, stride=2, padding=1)

    @classmethod
    def published_modules(cls) -> dict[str, str]:
        return {"conv_in": "halve"} | super().published_modules()

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        sides = self.side_logits(self.halve(x_BCHW))
        return [upsample(side, size_of(x_BCHW)) for side in sides] if upsampled else sides
