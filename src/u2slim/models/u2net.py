"""U2-Net (Qin et al., Pattern Recognition 2020, arXiv 2005.09007) with exchangeable 3x3 convolutions."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.models.conv import StandardConv
from u2slim.models.net import ConvFactory
from u2slim.models.resize import size_of, upsample
from u2slim.models.rsu import RSUNet, Stage, factories

# Each stage: (RSU depth, dilated, (in, mid, out) channels for each width).
_ENCODER = (
    (7, False, {"full": (3, 32, 64), "lite": (3, 16, 64)}),
    (6, False, {"full": (64, 32, 128), "lite": (64, 16, 64)}),
    (5, False, {"full": (128, 64, 256), "lite": (64, 16, 64)}),
    (4, False, {"full": (256, 128, 512), "lite": (64, 16, 64)}),
    (4, True, {"full": (512, 256, 512), "lite": (64, 16, 64)}),
    (4, True, {"full": (512, 256, 512), "lite": (64, 16, 64)}),
)
# From the deepest decoder stage (5d) to the shallowest (1d).
_DECODER = (
    (4, True, {"full": (1024, 256, 512), "lite": (128, 16, 64)}),
    (4, False, {"full": (1024, 128, 256), "lite": (128, 16, 64)}),
    (5, False, {"full": (512, 64, 128), "lite": (128, 16, 64)}),
    (6, False, {"full": (256, 32, 64), "lite": (128, 16, 64)}),
    (7, False, {"full": (128, 16, 64), "lite": (128, 16, 64)}),
)
WIDTHS = ("full", "lite")


def stages_of(width: str) -> tuple[list[Stage], list[Stage]]:
    """The encoder's and the decoder's stages."""
    encoder = [(depth, dilated, channels[width]) for depth, dilated, channels in _ENCODER]
    return encoder, [(depth, dilated, channels[width]) for depth, dilated, channels in _DECODER]


class U2Net(RSUNet):
    """The salient-object net: an outer U of RSU blocks with a side output at each of six scales.

    Args:
        width: `full` (44.0 M parameters when dense) or `lite` (the published u2netp, 1.13 M).
        conv: makes each 3x3 convolution, called as `conv(in_channels, out_channels, dilation=d)`; a class of
            `u2slim.models.conv` or a partial of one. The side heads are dense in every variant.
        stem: makes the very first convolution, which has only three channels to work on; None: as the others.
        ranks: by width, by stage and convolution what `rsu.factories` takes; `compress.ranks` chooses them.
        classes: that it tells apart; None: it makes a mask.

    Input: normalised RGB (B, 3, H, W), any H, W >= 32. Output: a list of seven logits
    `[fused, side1, ..., side6]`, each (B, 1 or classes, H, W); with `upsampled=False` side2 ... side6 keep the sizes at
    which they are made, down to 1/32, for losses that do without seven outputs of full size.
    """

    outputs = ("fused", "side1", "side2", "side3", "side4", "side5", "side6")

    def __init__(
        self,
        width: str = "full",
        conv: ConvFactory = StandardConv,
        stem: ConvFactory | None = None,
        ranks: Mapping[str, Mapping[str, Mapping[str, str | int]]] | None = None,
        classes: int | None = None,
    ):
        if width not in WIDTHS:
            raise UserError(f"model.width={width} is not known; choose one of: {', '.join(WIDTHS)}.")

        named = None
        if ranks is not None:
            if not isinstance(ranks, Mapping) or ranks.get(width) is None:
                raise UserError(
                    f"model.ranks has no {width}: ranks suit one width; make them with u2slim.compress.ranks "
                    f"width={width}."
                )
            named = factories(ranks[width], convolutions(), conv, f"model.ranks.{width}")
        super().__init__(*stages_of(width), conv, named, stem, classes)
        self.width, self.kind = width, f"u2net-{width}"
        self.fuse = nn.Conv2d(len(self.sides) * self.maps, self.maps, 1)
        if classes is not None:  # each class's mean over the sides, from which it learns faster than from noise
            mean_CC = torch.eye(classes) / len(self.sides)
            assert self.fuse.bias is not None
            with torch.no_grad():
                self.fuse.weight.copy_(mean_CC.repeat(1, len(self.sides))[:, :, None, None])
                self.fuse.bias.zero_()

    @property
    def heads(self) -> list[nn.Module]:
        return [*self.sides, self.fuse]

    @classmethod
    def published_modules(cls) -> dict[str, str]:
        return super().published_modules() | {"outconv": "fuse"}

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        sides = self.side_logits(x_BCHW)
        size = size_of(x_BCHW)
        if upsampled:
            sides = [upsample(side, size) for side in sides]
            return [self.fuse(torch.cat(sides, 1)), *sides]
        # Weighting before upsampling is the same sum, with one output of full size instead of six.
        weights = self.fuse.weight.split(self.maps, 1)
        parts = (upsample(self._weighted(*pair), size) for pair in zip(sides, weights, strict=True))
        assert self.fuse.bias is not None
        return [sum(parts, self.fuse.bias[:, None, None]), *sides]

    def _weighted(self, side_BMHW: Tensor, weight_MM11: Tensor) -> Tensor:
        """A side output's part in the fused one, in float32 even where autocast is on."""
        side_BMHW = side_BMHW.float()
        if self.classes is None:
            return side_BMHW * weight_MM11
        with torch.autocast(side_BMHW.device.type, enabled=False):
            return F.conv2d(side_BMHW, weight_MM11)


def convolutions() -> dict[str, list[str]]:
    """The names of the 3x3 convolutions in each stage, in the order in which images reach them."""
    names = {}
    for part, shapes in (("encoder", _ENCODER), ("decoder", _DECODER)):
        for number, (depth, *_) in enumerate(shapes):
            levels = range(depth - 1)
            own = ["stem", *(f"encoder.{i}" for i in levels), "bottom", *(f"decoder.{i}" for i in levels)]
            names[f"{part}.{number}"] = own
    return names


def ranks_by_name(words: str) -> dict[str, dict[str, str | int]]:
    """Ranks as configs had them before they had names: `0 24:10 16`, one word a convolution, in their order."""
    left = iter(words.split())
    try:
        by_name = {stage: {name: _form(next(left)) for name in names} for stage, names in convolutions().items()}
    except StopIteration:
        raise UserError("model.ranks has fewer numbers than the net has 3x3 convolutions.") from None
    if next(left, None) is not None:
        raise UserError("model.ranks has more numbers than the net has 3x3 convolutions.")
    return by_name


def _form(word: str) -> str | int:
    return word.replace(":", "-") if ":" in word else int(word)
