"""U2-Net (Qin et al., Pattern Recognition 2020, arXiv 2005.09007) with exchangeable 3x3 convolutions."""

import re
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.models.conv import ConvVariant, StandardConv
from u2slim.models.net import ConvFactory, Net
from u2slim.models.resize import size_of, upsample

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

    Args:
        channels: in, between and out.
        conv: makes its 3x3 convolutions, but for those that have a factory of their own in `named`: `stem`,
            `encoder.0`, ..., `bottom`, `decoder.0`, ...
    """

    def __init__(
        self,
        depth: int,
        dilated: bool,
        channels: tuple[int, int, int],
        conv: ConvFactory,
        named: Mapping[str, ConvFactory] | None = None,
    ):
        super().__init__()
        in_channels, mid, out = channels
        levels = depth - 1
        dilations = [2**i if dilated else 1 for i in range(levels)]

        def block(name: str, inputs: int, outputs: int, dilation: int) -> ConvBNReLU:
            return ConvBNReLU(inputs, outputs, dilation, (named or {}).get(name, conv))

        self.dilated = dilated
        self.stem = block("stem", in_channels, out, 1)
        self.encoder = nn.ModuleList(
            block(f"encoder.{i}", out if i == 0 else mid, mid, dilations[i]) for i in range(levels)
        )
        self.bottom = block("bottom", mid, mid, 2**levels if dilated else 2)
        self.decoder = nn.ModuleList(
            block(f"decoder.{levels - 1 - i}", 2 * mid, out if i == 0 else mid, dilations[i])
            for i in reversed(range(levels))
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        stem = x = self.stem(x_BCHW)
        skips = []
        for i, block in enumerate(self.encoder):
            x = block(x if self.dilated or i == 0 else _pool(x))
            skips.append(x)
        x = self.bottom(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(torch.cat((upsample(x, size_of(skip)), skip), 1))
        return stem + x


class U2Net(Net):
    """The salient-object net: an outer U of RSU blocks with a side output at each of six scales.

    Args:
        width: `full` (44.0 M parameters when dense) or `lite` (the published u2netp, 1.13 M).
        conv: makes each 3x3 convolution, called as `conv(in_channels, out_channels, dilation=d)`; a class of
            `u2slim.models.conv` or a partial of one. The one-channel side heads are dense in every variant.
        stem: makes the very first convolution, which has only three channels to work on; None: as the others.
        ranks: by width, by stage (`encoder.0`, ..., `decoder.4`), by convolution (as `RSU` names them): `conv` is
            called with `rank=` that number, and where there are two, `24-10`, with `narrow=` the first; 0: a dense one.
            `compress.ranks` chooses them.

    Input: normalised RGB (B, 3, H, W), any H, W >= 32. Output: a list of seven logits
    `[fused, side1, ..., side6]`, each (B, 1, H, W); with `upsampled=False` side2 ... side6 keep the sizes at which
    they are made, down to 1/32, for losses that do without seven maps of full size.
    """

    outputs = ("fused", "side1", "side2", "side3", "side4", "side5", "side6")

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
        self.ranked = ranks is not None
        named = _factories(ranks, width, conv) if ranks is not None else {}

        def stage(name: str, depth: int, dilated: bool, channels: Mapping[str, tuple[int, int, int]]) -> RSU:
            return RSU(depth, dilated, channels[width], conv, named.get(name))

        encoder = [stage(f"encoder.{i}", *shape) for i, shape in enumerate(_ENCODER)]
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(stage(f"decoder.{i}", *shape) for i, shape in enumerate(_DECODER))
        if stem is not None:
            first = encoder[0].stem
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

    @classmethod
    def published_keys(cls) -> dict[str, str]:
        with torch.device("meta"):
            net = cls()
        stages = {f"stage{n + 1}": f"encoder.{n}" for n in range(6)} | {
            f"stage{n}d": f"decoder.{5 - n}" for n in range(1, 6)
        }
        modules = {f"side{n + 1}": f"sides.{n}" for n in range(6)} | {"outconv": "fuse"}
        for stage, ours in stages.items():
            rsu = net.get_submodule(ours)
            assert isinstance(rsu, RSU)
            levels = len(rsu.encoder)
            blocks = {"rebnconvin": "stem", f"rebnconv{levels + 1}": "bottom"}
            blocks |= {f"rebnconv{n}": f"encoder.{n - 1}" for n in range(1, levels + 1)}
            blocks |= {f"rebnconv{n}d": f"decoder.{levels - n}" for n in range(1, levels + 1)}
            for block, our_block in blocks.items():
                modules[f"{stage}.{block}.conv_s1"] = f"{ours}.{our_block}.conv"
                modules[f"{stage}.{block}.bn_s1"] = f"{ours}.{our_block}.bn"
        return {
            f"{published}.{tensor}": f"{ours}.{tensor}"
            for published, ours in modules.items()
            for tensor in net.get_submodule(ours).state_dict()
        }

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        skips = []
        x = x_BCHW
        for i, stage in enumerate(self.encoder):
            x = stage(x if i == 0 else _pool(x))
            skips.append(x)
        features = [x]
        for stage, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((upsample(x, size_of(skip)), skip), 1))
            features.append(x)
        sides = [head(feature) for head, feature in zip(self.sides, reversed(features), strict=True)]
        size = size_of(x_BCHW)
        if upsampled:
            sides = [upsample(side, size) for side in sides]
            return [self.fuse(torch.cat(sides, 1)), *sides]
        # Weighting before upsampling is the same sum, with one full-size map instead of six.
        parts = (
            upsample(side.float() * weight, size)
            for side, weight in zip(sides, self.fuse.weight.flatten(), strict=True)
        )
        assert self.fuse.bias is not None
        return [sum(parts, self.fuse.bias), *sides]


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


def _factories(ranks: Mapping, width: str, conv: ConvFactory) -> dict[str, dict[str, ConvFactory]]:
    """What makes each convolution, by stage and name."""
    if not isinstance(ranks, Mapping) or ranks.get(width) is None:
        raise UserError(
            f"model.ranks has no {width}: ranks suit one width; make them with u2slim.compress.ranks width={width}."
        )
    given = {f"{stage}.{name}": form for stage, forms in ranks[width].items() for name, form in forms.items()}
    known = {f"{stage}.{name}" for stage, names in convolutions().items() for name in names}
    if given.keys() != known:
        name = min(given.keys() ^ known)
        fault = f"does not say {name}" if name in known else f"says {name}, which the net does not have"
        raise UserError(f"model.ranks.{width} {fault}; compress.ranks writes them all.")
    return {
        stage: {name: _factory(form, conv, f"model.ranks.{width}.{stage}.{name}") for name, form in forms.items()}
        for stage, forms in ranks[width].items()
    }


def _factory(form: str | int, conv: ConvFactory, setting: str) -> ConvFactory:
    if not re.fullmatch(r"(\d+-)?\d+", str(form)):
        raise UserError(f"{setting}={form}: give a whole number from 0, or two as in 24-10.")
    narrow, _, rank = str(form).rpartition("-")
    if narrow:
        return partial(conv, narrow=int(narrow), rank=int(rank))
    return partial(conv, rank=int(rank)) if int(rank) else StandardConv
