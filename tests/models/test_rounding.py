"""Weights on a grid of few bits, against rounding to the nearest and a search of all grids."""

import itertools

import pytest
import torch

from u2slim.errors import UserError
from u2slim.models import LowRankConv, StandardConv
from u2slim.models.least_squares import Goal, balanced
from u2slim.models.rounding import noise, rounded


def correlated(channels: int, positions: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    causes = max(2, channels // 2)  # fewer than channels, as behind neighbouring pixels
    mixing = torch.randn(causes, channels, generator=generator, dtype=torch.float64)
    rows = torch.randn(positions, causes, generator=generator, dtype=torch.float64) @ mixing
    return rows.T @ rows / positions + 0.1 * torch.eye(channels)


def codes(row: torch.Tensor, bits: int) -> torch.Tensor | None:
    """The whole numbers of a row on a grid; None: there is no such grid of so many bits."""
    for most in range(1, 2 ** (bits - 1)):
        numbers = row / (row.abs().max() / most)
        if float((numbers - numbers.round()).abs().max()) < 1e-4:
            return numbers.round()
    return None


def cost(weight: torch.Tensor, made: torch.Tensor, covariance: torch.Tensor) -> float:
    difference = weight - made
    return float((difference @ covariance * difference).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_each_row_lies_on_a_grid_of_so_many_bits(bits):
    weight = torch.randn(5, 24, generator=torch.Generator().manual_seed(1)).double()
    weight[3] = 0
    made = rounded(weight, correlated(24), bits)
    assert all(codes(row, bits) is not None for number, row in enumerate(made) if number != 3)
    assert not made[3].any()
    if bits < 8:
        assert any(codes(row, bits - 1) is None for row in made[:3]) or bits == 2


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_errors_are_made_up_for_by_weights_still_free(bits):
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)).double()
    covariance = correlated(64)
    nearest = rounded(weight, torch.diag(covariance.diagonal()), bits)
    assert cost(weight, rounded(weight, covariance, bits), covariance) < 0.5 * cost(weight, nearest, covariance)


def test_of_few_weights_it_comes_near_the_best_of_all_grids():
    weight = torch.randn(1, 5, generator=torch.Generator().manual_seed(2)).double()
    covariance = correlated(5)
    made = rounded(weight, covariance, 3)
    scale = float(made.abs().max()) / float(codes(made[0], 3).abs().max())
    best = min(
        cost(weight, scale * torch.tensor([numbers], dtype=torch.float64), covariance)
        for numbers in itertools.product(range(-3, 4), repeat=5)
    )
    assert best <= cost(weight, made, covariance) < 2 * best + 1e-3 * float(weight @ covariance @ weight.T)


def test_each_bit_less_is_four_times_the_noise():
    assert [noise(bits) / noise(bits + 1) for bits in (5, 6, 7)] == pytest.approx([4, 4, 4], rel=0.25)


@pytest.mark.parametrize("channels", [1, 2, 7, 12])
def test_balanced_factors_have_the_same_product_and_rows_as_short_as_that_allows(channels):
    generator = torch.Generator().manual_seed(channels)
    first, second = (torch.randn(channels, n, generator=generator, dtype=torch.float64) for n in (40, 24))
    mixed = torch.randn(channels, channels, generator=generator, dtype=torch.float64).matrix_exp()
    first, second = mixed @ first, torch.linalg.solve(mixed.T, second)
    product = first.T @ second
    made = balanced(first, second)
    torch.testing.assert_close(made[0].T @ made[1], product)
    least = float(torch.linalg.matrix_norm(product, "nuc")) / channels
    lengths = torch.stack([factor.square().sum(1) for factor in made])
    torch.testing.assert_close(lengths.mean(1), torch.full((2,), least, dtype=torch.float64))
    assert lengths.max() < 2 * least


def test_balanced_factors_lose_less_in_few_bits():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(12, n, generator=generator, dtype=torch.float64) for n in (40, 24))
    first[1:] = first[:1] + 0.1 * first[1:]  # channels that are nearly alike, of which differences are taken
    second[0] = -second[1:].sum(0)
    covariance, product = torch.eye(40, dtype=torch.float64), first.T @ second
    errors = []
    for factors in ((first, second), balanced(first, second)):
        made = rounded(factors[0], covariance, 4).T
        best = made @ torch.linalg.lstsq(made, product).solution
        errors.append(float((best - product).square().sum() / product.square().sum()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("kind", ["dense", "low rank", "narrowed"])
def test_a_fit_leaves_weights_on_the_grid_and_loses_little(kind):
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(6000, 9, 8, generator=generator)
    patches[:, :, 4:] = patches[:, :, :4] + 0.1 * patches[:, :, 4:]
    target = patches.flatten(1) @ torch.randn(72, 6, generator=generator) / 8
    goal = Goal(target, torch.full((6,), 2.0), torch.ones(6))
    errors = {}
    for bits in (None, 8, 6, 4):
        made_by = {
            "dense": lambda bits=bits: StandardConv(8, 6, bits=bits),
            "low rank": lambda bits=bits: LowRankConv(8, 6, rank=5, bits=bits),
            "narrowed": lambda bits=bits: LowRankConv(8, 6, rank=5, narrow=6, bits=bits),
        }
        conv = made_by[kind]()
        with torch.no_grad():
            made = conv.fit(patches, goal, 1e-6, 4, True)
        errors[bits] = float(goal.error(made))
        image = patches.permute(0, 2, 1).unflatten(2, (3, 3))  # a window each, whose middle is compared
        computed = conv(image)[:, :, 1, 1] * 2 + 1
        assert torch.allclose(computed, made, atol=2e-4)
        for name, weight in conv.named_parameters():
            if bits and weight.ndim == 4:
                rows = weight.detach().double().flatten(1)
                assert all(codes(row, bits) is not None for row in rows), name
    signal = float(goal.error(target.mean(0).expand_as(target)))
    assert errors[8] < errors[None] + 1e-3 * signal
    assert errors[6] < errors[None] + 1e-2 * signal < errors[None] + 0.15 * signal
    assert errors[8] <= errors[6] <= errors[4] < 0.5 * signal


def test_bits_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"model.conv.bits=9: give a whole number from 2 to 8"):
        StandardConv(4, 4, bits=9)
