"""Weights of few bits: rounded so that what they make of the inputs changes least.

Each row w (I), the weights of one output, becomes s * c, with a scale s and whole numbers |c| < 2^(bits - 1). Nearest
rounding minimises |w - s c|^2. What counts is (w - s c)' G (w - s c), G (I, I) being the inputs' covariance. So one
input after the other is rounded, those that vary most first, and each error is made up for as well as it can be by the
weights that are still free: by the inverse's Cholesky factor, as in Optimal Brain Compression and GPTQ (Frantar et
al., arXiv 2208.11580 and 2210.17323).
"""

from functools import cache

import torch
from torch import Tensor

BITS = range(2, 9)
_SHRINKS = 1 - 0.03 * torch.arange(20, dtype=torch.float64)  # of the range: a few large weights may be clipped
_RUN = 128  # inputs after which errors are passed on to all others at once


def rounded(weight_OI: Tensor, covariance_II: Tensor, bits: int) -> Tensor:
    """The weights on a grid of so many bits a row, float64; rows of zeros stay.

    Args:
        weight_OI: what to round.
        covariance_II: of the inputs; positive definite, so with a ridge.
        bits: from 2 to 8.
    """
    weight_OI, order = weight_OI.double(), covariance_II.diagonal().argsort(descending=True, stable=True)
    scale_O = _scales(weight_OI, covariance_II.diagonal(), bits)
    left_OI, made_OI = weight_OI[:, order].clone(), torch.empty_like(weight_OI)
    damped = covariance_II[order][:, order].clone()
    damped.diagonal().add_(1e-3 * damped.diagonal().mean() + 1e-300)
    factor_II = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    for first in range(0, len(order), _RUN):
        run = slice(first, min(first + _RUN, len(order)))
        errors_OI = torch.zeros(len(weight_OI), run.stop - first, dtype=torch.float64)
        for at in range(first, run.stop):
            made_OI[:, at] = _nearest(left_OI[:, at], scale_O, bits)
            error_O = (left_OI[:, at] - made_OI[:, at]) / factor_II[at, at]
            left_OI[:, at : run.stop] -= error_O[:, None] * factor_II[at, at : run.stop]
            errors_OI[:, at - first] = error_O
        left_OI[:, run.stop :] -= errors_OI @ factor_II[run, run.stop :]
    return made_OI[:, order.argsort()]


@cache
def noise(bits: int) -> float:
    """The mean squared error of nearest rounding, relative to the squares of normally distributed weights."""
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(16, 256, generator=generator, dtype=torch.float64)
    made_OI = _nearest(weight_OI, _scales(weight_OI, torch.ones(256), bits)[:, None], bits)
    return float((weight_OI - made_OI).square().mean())


def _scales(weight_OI: Tensor, variance_I: Tensor, bits: int) -> Tensor:
    """The scale of each row by which rounding to the nearest costs least, inputs counted by their variance."""
    largest_O = weight_OI.abs().amax(1).clamp(min=1e-30) / (2 ** (bits - 1) - 1)
    tried_SO = _SHRINKS[:, None] * largest_O
    costs_SO = torch.stack(
        [
            ((weight_OI - _nearest(weight_OI, scale_O[:, None], bits)).square() * variance_I).sum(1)
            for scale_O in tried_SO
        ]
    )
    return tried_SO.gather(0, costs_SO.argmin(0)[None])[0]


def _nearest(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    most = 2 ** (bits - 1) - 1
    return (weight / scale).round().clamp(-most, most) * scale
