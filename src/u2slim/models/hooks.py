"""What modules inside a net return, while it runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def outputs_of(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Collects what each of them returns, in the order in which they run."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [module.register_forward_hook(lambda own, _, output: found.update({own: output})) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
