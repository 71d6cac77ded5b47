"""Residual U-blocks, and the U that U2-Net and IS-Net make of them."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.models.conv import ConvVariant, StandardConv
from u2slim.models.net import ConvFactory, Net
from u2slim.models.resize import size_of, upsample

Stage = tuple[int, bool, tuple[int, int, int]]  # depth, dilated, channels of an `RSU`


def pool(x_BCHW: Tensor) -> Tensor:
    """Half the size, an odd row or column counted as a whole one."""
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
            x = block(x if self.dilated or i == 0 else pool(x))
            skips.append(x)
        x = self.bottom(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(torch.cat((upsample(x, size_of(skip)), skip), 1))
        return stem + x


class RSUNet(Net):
    """An outer U of RSU blocks, with a head that makes a side output at each of its six scales.

    Args:
        encoder, decoder: the stages, from the shallowest to the deepest and back.
        conv: makes each 3x3 convolution of the blocks; the heads are dense in every variant.
        named: by stage (`encoder.0`, ..., `decoder.4`), what makes single convolutions; see `RSU`.
        stem: makes the first convolution of all, instead.
        classes: that it tells apart, each with a map of every output; None: one map, of the subject.
    """

    kind: str  # what names begin with

    def __init__(
        self,
        encoder: Sequence[Stage],
        decoder: Sequence[Stage],
        conv: ConvFactory,
        named: Mapping[str, Mapping[str, ConvFactory]] | None = None,
        stem: ConvFactory | None = None,
        classes: int | None = None,
    ):
        super().__init__()
        if classes is not None and (type(classes) is not int or classes < 2):
            raise UserError(f"model.classes={classes}: give a whole number from 2, or null for a mask.")
        self.classes = classes
        self.ranked = bool(named)
        named = named or {}
        stages = [RSU(*stage, conv, named.get(f"encoder.{i}")) for i, stage in enumerate(encoder)]
        self.encoder = nn.ModuleList(stages)
        self.decoder = nn.ModuleList(RSU(*s, conv, named.get(f"decoder.{i}")) for i, s in enumerate(decoder))
        if stem is not None:
            first = stages[0].stem
            first.conv = stem(3, first.bn.num_features, dilation=1)
        outputs = [channels[2] for *_, channels in (*reversed(decoder), encoder[-1])]
        self.sides = nn.ModuleList(nn.Conv2d(channels, self.maps, 3, padding=1) for channels in outputs)

    @property
    def maps(self) -> int:
        """The channels of each output."""
        return self.classes or 1

    @property
    def name(self) -> str:
        """The net, its variant and whether it is pruned, for file names and tables: `u2net-lite-dwsep`."""
        variants = [module.variant for module in self.modules() if isinstance(module, ConvVariant)]
        variant = next((v for v in variants if v != StandardConv.variant), StandardConv.variant)
        return f"{self.kind}-{'ranked-' * self.ranked}{variant}{'-pruned' * self.pruned}"

    @property
    def heads(self) -> list[nn.Module]:
        return [*self.sides]

    @property
    def stages(self) -> list[nn.Module]:
        return [*self.encoder, *self.decoder]

    @classmethod
    def published_modules(cls) -> dict[str, str]:
        """A module of the published net, by the name that it has there -> ours, for all with weights."""
        with torch.device("meta"):
            net = cls()  # type: ignore[call-arg]  # of a net's own class, which has a default for everything
        stages = {f"stage{n + 1}": f"encoder.{n}" for n in range(6)} | {
            f"stage{n}d": f"decoder.{5 - n}" for n in range(1, 6)
        }
        modules = {f"side{n + 1}": f"sides.{n}" for n in range(6)}
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
        return modules

    def side_logits(self, x_BCHW: Tensor) -> list[Tensor]:
        """What the heads make (B, maps, h, w), the largest first, each at the size at which it is made."""
        skips = []
        x = x_BCHW
        for i, stage in enumerate(self.encoder):
            x = stage(x if i == 0 else pool(x))
            skips.append(x)
        features = [x]
        for stage, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((upsample(x, size_of(skip)), skip), 1))
            features.append(x)
        return [head(feature) for head, feature in zip(self.sides, reversed(features), strict=True)]


def factories(
    forms: Mapping[str, Mapping[str, str | int]], names: Mapping[str, Sequence[str]], conv: ConvFactory, setting: str
) -> dict[str, dict[str, ConvFactory]]:
    """What makes each convolution, by stage (`encoder.0`, ..., `decoder.4`) and name (as `RSU` names them).

    Args:
        forms: likewise: `10` calls `conv` with that `rank=`, `24-10` with `narrow=24`, too; 0 is a dense convolution.
            With `@6` behind it is to be filled with weights of 6 bits, whatever `conv` says.
        names: of all the convolutions, by stage.
        setting: what errors call them.
    """
    given = {f"{stage}.{name}": form for stage, own in forms.items() for name, form in own.items()}
    known = {f"{stage}.{name}" for stage, own in names.items() for name in own}
    if given.keys() != known:
        name = min(given.keys() ^ known)
        fault = f"does not say {name}" if name in known else f"says {name}, which the net does not have"
        raise UserError(f"{setting} {fault}; compress.ranks writes them all.")
    return {
        stage: {name: _factory(form, conv, f"{setting}.{stage}.{name}") for name, form in own.items()}
        for stage, own in forms.items()
    }


def _factory(form: str | int, conv: ConvFactory, setting: str) -> ConvFactory:
    if not re.fullmatch(r"(\d+-)?\d+(@\d)?", str(form)):
        raise UserError(f"{setting}={form}: give a whole number from 0, or two as in 24-10, and bits as in 24-10@6.")
    ranks, _, bits = str(form).partition("@")
    narrow, _, rank = ranks.rpartition("-")
    settings: dict[str, Any] = {"bits": int(bits) if bits else getattr(conv, "keywords", {}).get("bits")}
    if narrow:
        return partial(conv, narrow=int(narrow), rank=int(rank), **settings)
    return partial(conv, rank=int(rank), **settings) if int(rank) else partial(StandardConv, **settings)
