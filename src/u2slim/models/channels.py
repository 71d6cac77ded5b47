"""Numbers of channels that are not those a net is built with: how a pruned net is written down and built again."""

from torch import nn

from u2slim.errors import UserError
from u2slim.models.parsenet import L2Norm


def channels_of(net: nn.Module) -> str:
    """(in-out) of each convolution in the order of the net's modules, e.g. `3-32 32-64`."""
    return " ".join(f"{conv.in_channels}-{conv.out_channels}" for conv in _convolutions(net))


def set_channels(net: nn.Module, channels: str) -> None:
    """Make each convolution of a net anew, with other numbers of channels, and what follows it likewise.

    Args:
        net: its convolutions have one group, and each is followed by its BatchNorm (or L2Norm), as modules are listed.
        channels: as `channels_of` writes them.

    Raises:
        UserError: `channels` does not say as many numbers as the net has convolutions, or the net has groups.
    """
    convolutions = _convolutions(net)
    pairs = [word.split("-") for word in str(channels).split()]
    if len(pairs) != len(convolutions) or not all(
        len(pair) == 2 and all(number.isdecimal() and int(number) for number in pair) for pair in pairs
    ):
        raise UserError(
            f"model.channels has {len(pairs)} words, and the net {len(convolutions)} convolutions: give inputs-outputs "
            "for each, e.g. 3-32; u2slim.compress.prune writes them."
        )
    left = iter(pairs)
    outputs = 0
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            inputs, outputs = map(int, next(left))
            nn.Conv2d.__init__(
                module,
                inputs,
                outputs,
                _pair(module.kernel_size),
                _pair(module.stride),
                module.padding if isinstance(module.padding, str) else _pair(module.padding),
                _pair(module.dilation),
                bias=module.bias is not None,
            )
        elif isinstance(module, nn.BatchNorm2d):
            nn.BatchNorm2d.__init__(module, outputs, module.eps, module.momentum)
        elif isinstance(module, L2Norm):
            L2Norm.__init__(module, outputs)


def _pair(numbers: tuple[int, ...]) -> tuple[int, int]:
    height, width = numbers
    return height, width


def _convolutions(net: nn.Module) -> list[nn.Conv2d]:
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    if any(conv.groups > 1 for conv in convolutions):
        raise UserError("model.channels is for dense nets: leave model.conv at StandardConv.")
    return convolutions
