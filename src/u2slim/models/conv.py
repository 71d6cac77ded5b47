"""Cheaper kinds of 3x3 convolution, each of which can fill itself from a dense one's weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.models.least_squares import MIN_RIDGE, Goal, Narrowing, Regression, balanced, principal_directions, product
from u2slim.models.rounding import BITS, rounded

_RIDGE_TO_ZERO = 1e-3  # at most, where weights have no dense ones to go towards
_BETWEEN_RIDGE = 1e-4  # of the last factor's weights, towards those before the others were rounded

# Called with the convolution itself, and the dense weight (O, I, 3, 3) and bias (O) or None.
Fill = Callable[[Any, Tensor, Tensor | None], None]


class ConvVariant(nn.Module):
    """Base of all kinds of 3x3 convolution: each can fill itself from a dense one, and turn back into a dense one.

    All are made from (in_channels, out_channels, dilation, stride, bias). `bias=False` is for the dense convolutions
    of published ResNets; the other kinds keep the bias, which `fit` solves for.

    `fills` holds its ways to start from the dense weights (O, I, 3, 3) and bias (O) or None alone; each sets every
    parameter. `init.method` names one of them: `mean` averages the dense weights (the averaging baseline), `project`
    comes nearest to them. `fit` learns from examples of what goes in and what should come out. With `bits` it rounds
    the weights to a grid of that many bits (`models.rounding`), one factor at a time; later factors are then solved
    for anew.
    """

    variant: ClassVar[str]
    fills: ClassVar[Mapping[str, Fill]]
    weighted_fit: ClassVar[bool] = False  # whether `fit` uses the metric of its goal
    bits: int | None = None

    def as_dense(self) -> tuple[Tensor, Tensor]:
        """The weight (O, I, 3, 3) and bias (O) of the dense convolution that computes the same."""
        raise NotImplementedError

    def fit(self, patches_P9I: Tensor, goal: Goal, ridge: float, rounds: int, alternate: bool) -> Tensor:
        """Set every parameter by least squares.

        Args:
            patches_P9I: examples of the input: at P positions the 3x3 window of I channels.
            goal: what the output should be there.
            ridge: see `Regression.for_goal`.
            rounds: repetitions of the fit behind ReLU, and of the turns between factors.
            alternate: True: solve for several factors in turns; False: only for the last.

        Returns:
            the convolution's new output behind the goal's BatchNorm, (P, O).
        """
        raise NotImplementedError


class StandardConv(ConvVariant, nn.Conv2d):
    """The dense 3x3 convolution of the published nets."""

    variant = "standard"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilation: int = 1,
        stride: int = 1,
        bias: bool = True,
        bits: int | None = None,
    ):
        super().__init__(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=bias)
        self.bits = _checked(bits)

    def fill_copy(self, weight_OI33: Tensor, bias_O: Tensor | None) -> None:
        self.weight.copy_(weight_OI33)
        _set_bias(self, bias_O)

    def as_dense(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias

    fills: ClassVar[Mapping[str, Fill]] = {"mean": fill_copy, "project": fill_copy}

    def fit(self, patches_P9I: Tensor, goal: Goal, ridge: float, rounds: int, alternate: bool) -> Tensor:
        regression = Regression(patches_P9I.flatten(1), ridge, goal.prior_CO)
        coefficients, made = _fitted(regression, goal, rounds, self.bits)
        _set(self, *goal.before_batchnorm(coefficients))
        return made


class GroupedConv(ConvVariant, nn.Conv2d):
    """A 3x3 convolution in `groups` groups; the 3-channel stem stays dense.

    Args:
        shuffle: True: the groups take the input channels in turns; False: each takes a run of neighbours. Without it
            a chain of such convolutions is `groups` separate nets side by side.

    `mean`: adjacent input channels are averaged in runs of `groups`, so that a dense weight (O, I, 3, 3)
    becomes (O, I/groups, 3, 3). `project`: each output keeps its weights for the input channels of its own group.
    `fit`: each output regressed on the input channels of its own group.
    """

    variant = "grouped"
    bias: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilation: int = 1,
        stride: int = 1,
        bias: bool = True,
        groups: int = 2,
        shuffle: bool = False,
        bits: int | None = None,
    ):
        if in_channels == 3:
            groups = 1
        if in_channels % groups or out_channels % groups:
            raise UserError(f"model.conv.groups={groups} does not divide {in_channels} -> {out_channels} channels.")
        super().__init__(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, groups=groups)
        self.shuffle = shuffle and groups > 1
        self.bits = _checked(bits)

    def forward(self, x_BIHW: Tensor) -> Tensor:
        if self.shuffle:
            x_BIHW = _dealt(x_BIHW, self.groups)
        return super().forward(x_BIHW)

    def extra_repr(self) -> str:
        return super().extra_repr() + (", shuffle=True" if self.shuffle else "")

    def inputs_of(self, group: int) -> slice:
        """The input channels that a group sees."""
        each = self.in_channels // self.groups
        return slice(group, None, self.groups) if self.shuffle else slice(group * each, (group + 1) * each)

    def outputs_of(self, group: int) -> slice:
        """The output channels that a group makes."""
        each = self.out_channels // self.groups
        return slice(group * each, (group + 1) * each)

    def as_dense(self) -> tuple[Tensor, Tensor]:
        weight_OI33 = self.weight.new_zeros(self.out_channels, self.in_channels, 3, 3)
        for group in range(self.groups):
            own = self.outputs_of(group)
            weight_OI33[own, self.inputs_of(group)] = self.weight[own]
        return weight_OI33, self.bias

    def fill_mean(self, weight_OI33: Tensor, bias_O: Tensor | None) -> None:
        out_channels, in_channels = weight_OI33.shape[:2]
        runs = weight_OI33.reshape(out_channels, in_channels // self.groups, self.groups, 3, 3)
        self.weight.copy_(runs.mean(2))
        _set_bias(self, bias_O)

    def fill_project(self, weight_OI33: Tensor, bias_O: Tensor | None) -> None:
        for group in range(self.groups):
            own = self.outputs_of(group)
            self.weight[own] = weight_OI33[own, self.inputs_of(group)]
        _set_bias(self, bias_O)

    fills: ClassVar[Mapping[str, Fill]] = {"mean": fill_mean, "project": fill_project}

    def fit(self, patches_P9I: Tensor, goal: Goal, ridge: float, rounds: int, alternate: bool) -> Tensor:
        made = torch.empty_like(goal.target_PO)
        for group in range(self.groups):
            own = self.outputs_of(group)
            seen = patches_P9I[:, :, self.inputs_of(group)]
            regression = Regression(seen.flatten(1), min(ridge, _RIDGE_TO_ZERO))
            coefficients, made[:, own] = _fitted(regression, goal[own], rounds, self.bits)
            weight, bias = goal[own].before_batchnorm(coefficients)
            self.weight[own] = weight.T.reshape(-1, 3, 3, seen.shape[2]).permute(0, 3, 1, 2).float()
            self.bias[own] = bias.float()
        return made


def _dealt(x_BCHW: Tensor, groups: int) -> Tensor:
    """Channels 0, g, 2g, ..., then 1, g + 1, ..., in the memory layout that they come in."""
    if x_BCHW.is_contiguous(memory_format=torch.channels_last):
        dealt_BHWC = x_BCHW.permute(0, 2, 3, 1).unflatten(3, (-1, groups)).transpose(3, 4).flatten(3)
        return dealt_BHWC.permute(0, 3, 1, 2)
    return x_BCHW.unflatten(1, (-1, groups)).transpose(1, 2).flatten(1, 2)


class DepthwiseSeparableConv(ConvVariant, nn.Sequential):
    """A depthwise 3x3 convolution followed by a pointwise 1x1, both with bias.

    `mean`: the depthwise weight is the dense weight's mean over the outputs and its bias is zero; the
    pointwise weight is the dense weight's mean over the 3x3 window and its bias is the dense bias.
    `project`: for each input channel the best product of one 3x3 kernel and one weight per output, by SVD.
    `fit`: starting from the current kernels, pointwise and depthwise weights are solved for in turns.
    """

    variant = "dwsep"
    weighted_fit = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilation: int = 1,
        stride: int = 1,
        bias: bool = True,
        bits: int | None = None,
    ):
        super().__init__()
        self.bits = _checked(bits)
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=dilation, dilation=dilation, groups=in_channels
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def as_dense(self) -> tuple[Tensor, Tensor]:
        pointwise_OI = self.pointwise.weight.flatten(1)
        weight_OI33 = pointwise_OI[:, :, None, None] * self.depthwise.weight.transpose(0, 1)
        assert self.depthwise.bias is not None and self.pointwise.bias is not None
        return weight_OI33, pointwise_OI @ self.depthwise.bias + self.pointwise.bias

    def fill_mean(self, weight_OI33: Tensor, bias_O: Tensor | None) -> None:
        self.depthwise.weight.copy_(weight_OI33.mean(0, keepdim=True).transpose(0, 1))
        _set_bias(self.depthwise, None)
        self.pointwise.weight.copy_(weight_OI33.mean((2, 3), keepdim=True))
        _set_bias(self.pointwise, bias_O)

    def fill_project(self, weight_OI33: Tensor, bias_O: Tensor | None) -> None:
        left, singular, right = torch.linalg.svd(weight_OI33.transpose(0, 1).flatten(2).double(), full_matrices=False)
        self.depthwise.weight.copy_(right[:, 0].reshape(-1, 1, 3, 3))
        _set_bias(self.depthwise, None)
        self.pointwise.weight.copy_((left[:, :, 0] * singular[:, :1]).T[:, :, None, None])
        _set_bias(self.pointwise, bias_O)

    fills: ClassVar[Mapping[str, Fill]] = {"mean": fill_mean, "project": fill_project}

    def fit(self, patches_P9I: Tensor, goal: Goal, ridge: float, rounds: int, alternate: bool) -> Tensor:
        ridge, alone = min(ridge, _RIDGE_TO_ZERO), goal

        def regression() -> Regression:
            return Regression((patches_P9I * kernels_9I).sum(1), ridge)

        kernels_9I = self.depthwise.weight.flatten(1).T.clone()
        if alternate and rounds:
            gram = product(patches_P9I.flatten(1), patches_P9I.flatten(1))
            target = goal.target_PO
            for _ in range(rounds):
                pointwise = regression()
                coefficients = pointwise.solve(target)
                target = goal.nearest(pointwise.predict(coefficients))
                weighted = goal.weighted(target), goal.weighted(coefficients)
                kernels_9I = _depthwise(patches_P9I, gram, *weighted, kernels_9I, ridge)
            alone, rounds = replace(goal, target_PO=target, relu=False), 0
        if self.bits:
            kernels_9I = torch.cat(
                [
                    _rounded_kernel(patches_P9I[:, :, [i]], kernels_9I[:, [i]], self.bits)
                    for i in range(kernels_9I.shape[1])
                ],
                1,
            )
        coefficients, made = _fitted(regression(), alone, rounds, self.bits)
        weight, bias = goal.before_batchnorm(coefficients)
        self.depthwise.weight.copy_(kernels_9I.T.reshape(-1, 1, 3, 3))
        _set_bias(self.depthwise, None)
        self.pointwise.weight.copy_(weight.T[:, :, None, None])
        _set_bias(self.pointwise, bias)
        return made


class LowRankConv(ConvVariant, nn.Sequential):
    """A 3x3 convolution to fewer channels, then a 1x1 convolution to the outputs; only the latter has a bias.

    Args:
        share: the share of the dense convolution's weights to keep; the number of channels in between follows from it.
        rank: the number of channels in between, instead of `share`.
        narrow: the number of channels to which a 1x1 convolution first brings the inputs (a Tucker decomposition: Kim
            et al., arXiv 1511.06530); None: the 3x3 convolution sees all inputs.

    `project`: the best approximation of the dense weights with that rank; with `narrow` it is the one by their singular
    vectors for inputs and outputs. `fit`: reduced-rank regression, that is, the principal components of what the best
    dense convolution would make; inputs are narrowed by least squares, too.
    """

    variant = "lowrank"
    weighted_fit = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilation: int = 1,
        stride: int = 1,
        bias: bool = True,
        share: float = 0.5,
        rank: int | None = None,
        narrow: int | None = None,
        bits: int | None = None,
    ):
        if not 0 < share <= 1:
            raise UserError(f"model.conv.share={share}: give a share of the dense weights, above 0 and at most 1.")
        if rank is None:
            rank = max(1, round(share * 9 * in_channels * out_channels / (9 * in_channels + out_channels)))
        seen = in_channels if narrow is None else narrow
        if not (0 < seen <= in_channels and 0 < rank <= min(9 * seen, out_channels)):
            form = rank if narrow is None else f"{narrow}-{rank}"
            raise UserError(f"A convolution of {in_channels} -> {out_channels} channels cannot have rank {form}.")
        super().__init__()
        if narrow is not None:
            self.narrow = nn.Conv2d(in_channels, narrow, 1, bias=False)
        self.reduce = nn.Conv2d(seen, rank, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.expand = nn.Conv2d(rank, out_channels, 1)
        self.bits = _checked(bits)

    @property
    def narrows(self) -> bool:
        """Whether a 1x1 convolution comes first."""
        return len(self) == 3

    def as_dense(self) -> tuple[Tensor, Tensor]:
        weight_OI33 = torch.einsum("or,rnhw->onhw", self.expand.weight.flatten(1), self.reduce.weight)
        if self.narrows:
            weight_OI33 = torch.einsum("onhw,ni->oihw", weight_OI33, self.narrow.weight.flatten(1))
        assert self.expand.bias is not None
        return weight_OI33, self.expand.bias

    def fill_project(self, weight_OI33: Tensor, bias_O: Tensor | None) -> None:
        rank = len(self.reduce.weight)
        if self.narrows:
            rows = weight_OI33.transpose(0, 1).flatten(1).double()
            narrow_NI = torch.linalg.eigh(rows @ rows.T)[1].T[-len(self.narrow.weight) :]
            self.narrow.weight.copy_(narrow_NI[:, :, None, None])
            weight_OI33 = torch.einsum("oihw,ni->onhw", weight_OI33.double(), narrow_NI)
        left, singular, right = torch.linalg.svd(weight_OI33.flatten(1).double(), full_matrices=False)
        self.reduce.weight.copy_((singular[:rank, None] * right[:rank]).reshape(self.reduce.weight.shape))
        self.expand.weight.copy_(left[:, :rank, None, None])
        _set_bias(self.expand, bias_O)

    fills: ClassVar[Mapping[str, Fill]] = {"project": fill_project}

    def fit(self, patches_P9I: Tensor, goal: Goal, ridge: float, rounds: int, alternate: bool) -> Tensor:
        rank, seen = self.reduce.weight.shape[:2]
        regression = Regression(patches_P9I.flatten(1), ridge, goal.prior_CO)
        if self.narrows:
            best_CO = regression.towards(goal, min(rounds, 4))[0]
            narrowing = Narrowing(regression.spread, goal.weighted(best_CO[:-1]))
            narrow_NI = narrowing.solve(seen, rank).T
            if self.bits:
                behind_NC = narrowing.behind(narrow_NI.T, rank).transpose(0, 1).flatten(1)
                narrow_NI = balanced(narrow_NI, behind_NC)[0]
                narrow_NI = rounded(narrow_NI, narrowing.spread_II, self.bits)
            self.narrow.weight.copy_(narrow_NI[:, :, None, None])
            patches_P9I = patches_P9I @ narrow_NI.T.float()
            prior_CO = goal.unweighted(narrowing.behind(narrow_NI.T).flatten(0, 1))
            share = float(regression.pull / (regression.gram.diagonal()[:-1].mean() - regression.pull))
            regression = Regression(patches_P9I.flatten(1), share, torch.cat((prior_CO, best_CO[-1:])))
        target = goal.target_PO
        for _ in range(rounds + 1 if goal.relu else 1):
            coefficients = regression.solve(target)
            made = regression.predict(coefficients)
            mean_O, taking_OO, putting_OO = principal_directions(made, goal.root_OO)
            taking_OR, putting_OR = taking_OO[:, -rank:], putting_OO[:, -rank:]
            made = mean_O + (made - mean_O) @ (taking_OR @ putting_OR.T).float()
            target = goal.nearest(made)
        # Only the product of the two is given. With variance 1 between them both learn at usual rates; in the metric's
        # units one is thousands of times as large as the other, and Adam's steps wreck the smaller.
        deviation_R = (made.double() @ taking_OR).std(0)
        deviation_R.clamp_(min=1e-3 * deviation_R.max() + 1e-12)
        reduce_RI = (coefficients[:-1] @ taking_OR / deviation_R).T
        # The constant moves what the rank takes from the mean.
        offset_O = mean_O + ((coefficients[-1] - mean_O) @ taking_OR) @ putting_OR.T
        expand_CO = torch.cat(((putting_OR * deviation_R).T, offset_O[None]))
        if self.bits:
            reduce_RI, behind_RO = balanced(reduce_RI, goal.weighted(expand_CO[:-1]))
            expand_CO = torch.cat((goal.unweighted(behind_RO), expand_CO[-1:]))
            reduce_RI = rounded(reduce_RI, regression.spread, self.bits)
            between = Regression(patches_P9I.flatten(1) @ reduce_RI.T.float(), _BETWEEN_RIDGE, expand_CO)
            expand_CO, made = _fitted(between, goal, rounds, self.bits)
        self.reduce.weight.copy_(reduce_RI.reshape(rank, 3, 3, seen).permute(0, 3, 1, 2))
        _set(self.expand, *goal.before_batchnorm(expand_CO))
        return made


def _fitted(regression: Regression, goal: Goal, rounds: int, bits: int | None) -> tuple[Tensor, Tensor]:
    """Coefficients (I + 1, O) for a goal, and what they make; with `bits` on a grid, but for the constants."""
    coefficients, made = regression.towards(goal, rounds)
    if bits:
        coefficients = coefficients.clone()
        coefficients[:-1] = rounded(coefficients[:-1].T, regression.spread, bits).T
        made = regression.predict(coefficients)
        for _ in range(rounds + 1 if goal.relu else 1):
            shift_O = (goal.nearest(made) - made).double().mean(0)
            coefficients[-1] += shift_O
            made = made + shift_O.float()
    return coefficients, made


def _rounded_kernel(patches_P91: Tensor, kernel_91: Tensor, bits: int) -> Tensor:
    return rounded(kernel_91.T, Regression(patches_P91.flatten(1), 0).spread, bits).T.float()


def _set(conv: nn.Conv2d, weight_CO: Tensor, bias_O: Tensor) -> None:
    """Give a convolution weights whose window's places come first, and a bias."""
    side = conv.kernel_size[0]
    conv.weight.copy_(weight_CO.T.reshape(len(bias_O), side, side, -1).permute(0, 3, 1, 2))
    _set_bias(conv, bias_O)


def _checked(bits: int | None) -> int | None:
    if bits is not None and bits not in BITS:
        raise UserError(f"model.conv.bits={bits}: give a whole number from {BITS.start} to {BITS.stop - 1}.")
    return bits


def _set_bias(conv: nn.Conv2d, bias_O: Tensor | None) -> None:
    """Give a convolution that bias, or zeros for none; one without a bias stays so."""
    if conv.bias is None:
        return
    if bias_O is None:
        conv.bias.zero_()
    else:
        conv.bias.copy_(bias_O)


def _depthwise(
    patches_P9I: Tensor, gram: Tensor, target_PO: Tensor, coefficients: Tensor, kernels_9I: Tensor, ridge: float
) -> Tensor:
    """The 3x3 kernels (9, I), each of norm 1, that suit given pointwise weights best.

    Channels that are silent or not used keep their kernels: zeros beside zeros would never learn. The matrix whose
    rows are positions times outputs is never built: its Gram matrix is the patches' own, each entry times the product
    of the two channels' pointwise weights.
    """
    pointwise_IO, bias_O = coefficients[:-1], coefficients[-1]
    channels = len(pointwise_IO)
    wanted_PI = (target_PO - bias_O.float()) @ pointwise_IO.T.float()
    right = torch.stack([(patches_P9I[:, k] * wanted_PI).sum(0, dtype=torch.float64) for k in range(9)])
    matrix = gram.reshape(9, channels, 9, channels) * (pointwise_IO @ pointwise_IO.T)[:, None, :]
    matrix = matrix.reshape(9 * channels, -1)
    matrix.diagonal().add_(max(ridge, MIN_RIDGE) * matrix.diagonal().mean() + 1e-12)
    found_9I = torch.cholesky_solve(right.reshape(-1, 1), torch.linalg.cholesky(matrix)).reshape(9, channels)
    norm_I = found_9I.norm(dim=0)
    return torch.where(norm_I > 1e-9, found_9I / norm_I.clamp(min=1e-9), kernels_9I).float()
