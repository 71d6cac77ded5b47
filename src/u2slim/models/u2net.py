"""U2-Net (Qin et al., Pattern Recognition 2020, arXiv 2005.09007) with exchangeable 3x3 convolutions."""

import re
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.models.conv import ConvVariant, StandardConv
from u2slim.models.resize import upsample

ConvFactory = Callable[..., nn.Module]

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


def _pool(x_BCHW: Tensor) -> Tensor:
    return F.max_pool2d(x_BCHW, 2, 2, ceil_mode=True)


class ConvBNReLU(nn.Sequential):
    """A 3x3 convolution of the chosen variant, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int, conv: ConvFactory):
        super().__init__()
        self.conv = conv(in_channels, out_channels, dilation=dilation)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)


class RSU(nn.Module):
    """Residual U-block of a given depth: a small U-Net whose output is added to its first feature map.

    With `dilated` (the paper's RSU-4F) the resolution stays and the dilation doubles from level to level.
    Input (B, in, H, W), output (B, out, H, W).
    """

    def __init__(self, depth: int, dilated: bool, channels: tuple[int, int, int], conv: ConvFactory):
        super().__init__()
        in_channels, mid, out = channels
        levels = depth - 1
        dilations = [2**i if dilated else 1 for i in range(levels)]
        self.dilated = dilated
        self.stem = ConvBNReLU(in_channels, out, 1, conv)
        self.encoder = nn.ModuleList(ConvBNReLU(out if i == 0 else mid, mid, dilations[i], conv) for i in range(levels))
        self.bottom = ConvBNReLU(mid, mid, 2**levels if dilated else 2, conv)
        self.decoder = nn.ModuleList(
            ConvBNReLU(2 * mid, out if i == 0 else mid, dilations[i], conv) for i in reversed(range(levels))
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        stem = x = self.stem(x_BCHW)
        skips = []
        for i, block in enumerate(self.encoder):
            x = block(x if self.dilated or i == 0 else _pool(x))
            skips.append(x)
        x = self.bottom(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(torch.cat((upsample(x, skip.shape[2:]), skip), 1))
        return stem + x


class U2Net(nn.Module):
    """The salient-object net: an outer U of RSU blocks with a side output at each of six scales.

    Args:
        width: `full` (44.0 M parameters when dense) or `lite` (the published u2netp, 1.13 M).
        conv: makes each 3x3 convolution, called as `conv(in_channels, out_channels, dilation=d)`; a class of
            `u2slim.models.conv` or a partial of one. The one-channel side heads are dense in every variant.
        stem: makes the very first convolution, which has only three channels to work on; None: as the others.
        ranks: by width, numbers with spaces between, one for each 3x3 convolution from the first to the last of the
            encoder and then of the decoder, the side heads not counted: `conv` is called with `rank=` that, and where
            there are two, `24:10`, with `narrow=` the first; 0: a dense one. `u2slim.compress.ranks` chooses them.

    Input: normalised RGB (B, 3, H, W), any H, W >= 32. Output: a list of seven logits
    `[fused, side1, ..., side6]`, each (B, 1, H, W); with `upsampled=False` side2 ... side6 keep the sizes at which
    they are made, down to 1/32, for losses that do without seven maps of full size.
    """

    def __init__(
        self,
        width: str = "full",
        conv: ConvFactory = StandardConv,
        stem: ConvFactory | None = None,
        ranks: Mapping[str, str] | None = None,
    ):
        super().__init__()
        if width not in WIDTHS:
            raise UserError(f"model.width={width} is not known; choose one of: {', '.join(WIDTHS)}.")
        self.width = width
        self.pruned = False
        self.ranked = ranks is not None
        left = _numbers(ranks, width) if self.ranked else iter(())
        if self.ranked:
            conv = _ranked(conv, left)
        self.encoder = nn.ModuleList(RSU(depth, dilated, c[width], conv) for depth, dilated, c in _ENCODER)
        self.decoder = nn.ModuleList(RSU(depth, dilated, c[width], conv) for depth, dilated, c in _DECODER)
        if next(left, None) is not None:
            raise UserError(
                "model.ranks has more numbers than the net has 3x3 convolutions; u2slim.compress.ranks makes them."
            )
        if stem is not None:
            first = self.encoder[0].stem
            first.conv = stem(3, first.bn.num_features, dilation=1)
        outputs = [c[width][2] for *_, c in (*reversed(_DECODER), _ENCODER[-1])]
        self.sides = nn.ModuleList(nn.Conv2d(channels, 1, 3, padding=1) for channels in outputs)
        self.fuse = nn.Conv2d(len(outputs), 1, 1)

    @property
    def name(self) -> str:
        """Width, variant and whether it is pruned, for file names and tables: `u2net-lite-dwsep`."""
        variants = [module.variant for module in self.modules() if isinstance(module, ConvVariant)]
        variant = next((v for v in variants if v != StandardConv.variant), StandardConv.variant)
        return f"u2net-{self.width}-{'ranked-' * self.ranked}{variant}{'-pruned' * self.pruned}"

    @property
    def heads(self) -> list[nn.Module]:
        """What makes the logits."""
        return [*self.sides, self.fuse]

    @property
    def stages(self) -> list[nn.Module]:
        """The blocks between which little is kept: where activation checkpointing cuts."""
        return [*self.encoder, *self.decoder]

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        skips = []
        x = x_BCHW
        for i, stage in enumerate(self.encoder):
            x = stage(x if i == 0 else _pool(x))
            skips.append(x)
        features = [x]
        for stage, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((upsample(x, skip.shape[2:]), skip), 1))
            features.append(x)
        sides = [head(feature) for head, feature in zip(self.sides, reversed(features), strict=True)]
        size = x_BCHW.shape[2:]
        if upsampled:
            sides = [upsample(side, size) for side in sides]
            return [self.fuse(torch.cat(sides, 1)), *sides]
        # Weighting before upsampling is the same sum, with one full-size map instead of six.
        parts = (
            upsample(side.float() * weight, size)
            for side, weight in zip(sides, self.fuse.weight.flatten(), strict=True)
        )
        return [sum(parts, self.fuse.bias), *sides]


def _numbers(ranks: Mapping[str, str], width: str) -> Iterator[tuple[int | None, int]]:
    if not isinstance(ranks, Mapping) or ranks.get(width) is None:
        raise UserError(
            f"model.ranks has no {width}: ranks suit one width; make them with u2slim.compress.ranks width={width}."
        )
    words = str(ranks[width]).split()
    for word in words:
        if not re.fullmatch(r"(\d+:)?\d+", word):
            raise UserError(
                f"model.ranks.{width} holds {word}: give whole numbers from 0, or two as in 24:10, with spaces between."
            )
    pairs = (word.rpartition(":") for word in words)
    return ((int(narrow) if narrow else None, int(rank)) for narrow, _, rank in pairs)


def _ranked(conv: ConvFactory, ranks: Iterator[tuple[int | None, int]]) -> ConvFactory:
    """A factory whose convolutions take the ranks in the order in which they are made."""

    def make(in_channels: int, out_channels: int, dilation: int) -> nn.Module:
        form = next(ranks, None)
        if form is None:
            raise UserError(
                "model.ranks has fewer numbers than the net has 3x3 convolutions; u2slim.compress.ranks makes them."
            )
        narrow, rank = form
        if narrow is None and rank == 0:
            return StandardConv(in_channels, out_channels, dilation)
        factors = {} if narrow is None else {"narrow": narrow}
        return conv(in_channels, out_channels, dilation=dilation, rank=rank, **factors)

    return make
