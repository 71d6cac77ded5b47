"""Activation checkpointing: less memory in training for a second forward pass."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recompute_activations(stages: Iterable[nn.Module]) -> None:
    """Make each stage keep only its input in training and compute the rest again in the backward pass.

    Values, gradients and BatchNorm's running statistics stay what they were.
    """
    for stage in stages:
        stage.forward = partial(_forward, stage, stage.forward)


def _forward(stage: nn.Module, forward: Callable, *inputs: Any) -> Any:
    if not stage.training:
        return forward(*inputs)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _statistics_untouched(stage)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_untouched(stage: nn.Module) -> Iterator[None]:
    """BatchNorm has counted the batch in the first pass; in the second it must not again."""
    # upstream: https://github.com/pytorch/pytorch/issues/96136; drop when it is closed
    norms = [module for module in stage.modules() if isinstance(module, _NormBase)]
    norms = [norm for norm in norms if norm.num_batches_tracked is not None]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
