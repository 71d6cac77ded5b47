"""How a net's weights lie in memory."""

from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def to_memory_format(net: N, memory_format: torch.memory_format) -> N:
    """Lay all weights (O, I, H, W) out anew, in place, e.g. as `torch.channels_last`."""
    # upstream: torch's stubs lack memory_format (seen with torch 2.13); drop when mypy calls the comment unused
    return net.to(memory_format=memory_format)  # type: ignore[call-overload]
