"""Nets, the convolutions they are made of, and the one way to build a net from a config."""

import re
from collections.abc import Mapping
from typing import Any

import hydra

from u2slim.errors import UserError
from u2slim.legacy import current
from u2slim.models.channels import set_channels
from u2slim.models.conv import ConvVariant, DepthwiseSeparableConv, GroupedConv, LowRankConv, StandardConv
from u2slim.models.fcn import FCN
from u2slim.models.icnet import ICNet
from u2slim.models.isnet import ISNet
from u2slim.models.net import Net
from u2slim.models.parsenet import ParseNet
from u2slim.models.pspnet import PSPNet
from u2slim.models.resnet import SemanticNet
from u2slim.models.u2net import U2Net, ranks_by_name

__all__ = [
    "FCN",
    "ConvVariant",
    "DepthwiseSeparableConv",
    "GroupedConv",
    "ICNet",
    "ISNet",
    "LowRankConv",
    "Net",
    "PSPNet",
    "ParseNet",
    "SemanticNet",
    "StandardConv",
    "U2Net",
    "build_net",
]

_OWN_CLASS = re.compile(r"u2slim\.models\.[A-Z]\w*")


def build_net(config: Mapping[str, Any]) -> Net:
    """The net that a `model` config describes, which it keeps as `config`; its `labels` are not known yet.

    The config may come out of a checkpoint file, of this version or an earlier one. So it may hold only plain values
    and, as `_target_`, only the classes of this package. Any net takes `channels`, by which `u2slim.compress.prune`
    writes down what it left.

    Raises:
        UserError: a `_target_` from elsewhere, anything but plain values, an unknown width or option.
    """
    config = current_config(config)
    _check(config)
    net = hydra.utils.instantiate({name: value for name, value in config.items() if name != "channels"})
    if config.get("channels"):
        set_channels(net, config["channels"])
        net.pruned = True
    net.config = config
    return net


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A `model` config of any age as it would be written today."""
    today: dict[str, Any] = current(dict(config))
    ranks = today.get("ranks")
    if isinstance(ranks, Mapping):
        today["ranks"] = {w: ranks_by_name(r) if isinstance(r, str) else r for w, r in ranks.items()}
    return today


def _check(config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if isinstance(value, Mapping):
            _check(value)
        elif key == "_target_" and not _OWN_CLASS.fullmatch(str(value)):
            raise UserError(f"A model config may not build {value!r}: only the classes of u2slim.models.")
        elif not isinstance(value, str | int | float | bool | None) or "${" in str(value):
            raise UserError(f"A model config may hold only plain values, not {key}={value!r}.")
