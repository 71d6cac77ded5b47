"""Layer-by-layer least squares: each new convolution is solved for what the dense net's made of the same photos."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from u2slim.compress.sensitivity import metrics, square_root
from u2slim.errors import UserError
from u2slim.models.conv import ConvVariant
from u2slim.models.least_squares import Goal, Narrowing, Regression, principal_directions

log = logging.getLogger(__name__)

ORDERS = ("sequential", "independent")
Form = tuple[int | None, int]  # narrow and rank of a `LowRankConv`

JUDGES = 16  # photos that say what counts; the matrices hardly change with more


@torch.no_grad()
def reconstruct(
    dense: nn.Module,
    net: nn.Module,
    input_N3HW: Tensor,
    pixels: int = 40_000,
    ridge: float = 1e-3,
    rounds: int = 12,
    relu: bool = True,
    alternate: bool = True,
    order: str = "sequential",
    weigh: bool = True,
    seed: int = 0,
) -> dict[str, float]:
    """Refill every 3x3 convolution of `net` that is not dense itself, in forward order, without any gradient.

    What a convolution gets is what the layers before it, already refilled, make of the photos; what it should yield is
    what the dense net yields there. Its BatchNorm gets the new outputs' statistics, and the weights with which it
    still computes the same: so the net acts alike in training, where BatchNorm goes by the batch.

    Args:
        dense: the net to imitate, of the same structure with standard convolutions.
        net: the net to refill, with the dense net's BatchNorms, and kernels to start from (`transfer`).
        input_N3HW: normalised photos; all go through the net as one batch.
        pixels: positions of the outputs to fit, drawn evenly from all photos.
        ridge: of each regression, relative to the mean square of its inputs.
        rounds: of fitting anew behind ReLU, and of solving for depthwise and pointwise weights in turns.
        relu: aim at outputs behind ReLU (negative values are all alike) rather than before it.
        alternate: solve for depthwise weights too, not for pointwise ones only.
        order: `sequential` as above; `independent`: each convolution gets the dense net's input.
        weigh: let errors count by what they do to the dense net's output (`compress.sensitivity`), not all alike.

    Returns:
        each convolution's error behind BatchNorm (and ReLU), relative to the variance there.

    Raises:
        UserError: a setting that cannot be.
    """
    check_settings(pixels=pixels, ridge=ridge, rounds=rounds, order=order)
    dense_blocks = _blocks(dense)
    blocks = {name: b for name, b in _blocks(net).items() if _weights(b.conv) != _weights(dense_blocks[name].conv)}
    if not blocks:
        return {}
    positions = {name: _Positions(pixels, len(input_N3HW), seed, i) for i, name in enumerate(blocks)}
    dense, net = dense.eval(), net.eval()
    weighted = {name: dense_blocks[name].bn for name, block in blocks.items() if weigh and block.conv.weighted_fit}
    roots = _roots(dense, weighted, input_N3HW, seed)
    errors: dict[str, float] = {}
    with Progress(transient=True) as bar:
        task = bar.add_task("least squares", total=len(blocks))

        def refill(name: str, x_NIHW: Tensor, output_PO: Tensor) -> None:
            dense_block = dense_blocks[name]
            goal = _goal(dense_block.bn, output_PO, relu and dense_block.relu, roots.get(name))
            patches = positions[name].patches(x_NIHW, _dense(dense_block))
            made = blocks[name].conv.fit(patches, goal, ridge, rounds, alternate)
            _settle(blocks[name].bn, goal, made)
            errors[name] = _error(goal, made)
            bar.advance(task)

        if order == "independent":
            hooks = [
                dense_blocks[name].conv.register_forward_hook(
                    lambda _, x, y, name=name: refill(name, x[0], positions[name].rows(y))
                )
                for name in blocks
            ]
            _run(dense, input_N3HW, hooks)
        else:
            outputs = _outputs(dense, dense_blocks, input_N3HW, positions)
            hooks = [
                block.conv.register_forward_pre_hook(lambda _, x, name=name: refill(name, x[0], outputs.pop(name)))
                for name, block in blocks.items()
            ]
            _run(net, input_N3HW, hooks)
    log.info("least squares over %d convolutions: mean error %.3f", len(errors), sum(errors.values()) / len(errors))
    return errors


@torch.no_grad()
def errors_by_form(
    dense: nn.Module,
    input_N3HW: Tensor,
    pixels: int = 20_000,
    seed: int = 0,
    names: Collection[str] | None = None,
) -> dict[str, dict[Form, float]]:
    """What each 3x3 convolution with more than three inputs costs if inputs are narrowed and outputs of low rank.

    By the block's name and (narrow, rank), as `LowRankConv` has them: the mean squared change of the net's output, as
    `u2slim.compress.sensitivity` estimates it for the errors of that convolution alone, behind BatchNorm and ReLU.

    Args:
        dense: the net.
        input_N3HW: normalised photos; all go through the net as one batch.
        pixels: positions of the outputs to compare, drawn evenly from all photos.
        seed: of the positions and of the estimate.
        names: of the blocks to measure; None: all.
    """
    dense = dense.eval()
    blocks = {name: block for name, block in _blocks(dense).items() if _dense(block).in_channels > 3}
    positions = {name: _Positions(pixels, len(input_N3HW), seed, i) for i, name in enumerate(blocks)}
    blocks = {name: block for name, block in blocks.items() if names is None or name in names}
    roots = _roots(dense, {name: block.bn for name, block in blocks.items()}, input_N3HW, seed)
    errors: dict[str, dict[Form, float]] = {}
    with Progress(transient=True) as bar:
        task = bar.add_task("what each rank costs", total=len(blocks))

        def measure(name: str, x_NIHW: Tensor, y_NOHW: Tensor) -> None:
            block = blocks[name]
            goal = _goal(block.bn, positions[name].rows(y_NOHW), block.relu, roots[name])
            patches = positions[name].patches(x_NIHW, _dense(block))
            errors[name] = _errors_of_forms(patches, goal)
            bar.advance(task)

        hooks = [
            block.conv.register_forward_hook(lambda _, x, y, name=name: measure(name, x[0], y))
            for name, block in blocks.items()
        ]
        _run(dense, input_N3HW, hooks)
    return errors


def _errors_of_forms(patches_P9I: Tensor, goal: Goal) -> dict[Form, float]:
    inputs = patches_P9I.shape[2]
    errors: dict[Form, float] = {(None, rank): error for rank, error in _errors_by_rank(goal.target_PO, goal)}
    narrowing = Narrowing(Regression(patches_P9I.flatten(1), 1e-6), goal, goal.target_PO)
    directions_II = narrowing.directions()
    for channels in range(max(1, inputs // 8), inputs, max(1, inputs // 16)):
        narrow_IN = directions_II[:, -channels:]
        behind_CO = goal.unweighted(narrowing.behind(narrow_IN).flatten(0, 1)).float()
        made_PO = (patches_P9I @ narrow_IN.float()).flatten(1) @ behind_CO
        made_PO += (goal.target_PO - made_PO).mean(0)
        errors |= {(channels, rank): error for rank, error in _errors_by_rank(made_PO, goal)}
    return errors


def _errors_by_rank(best_PO: Tensor, goal: Goal) -> Iterator[tuple[int, float]]:
    """What the principal components of the best outputs cost, the first, the first two, ..."""
    mean_O, taking_OO, putting_OO = principal_directions(best_PO, goal.root_OO)
    centred_PO = best_PO - mean_O
    made_PO = mean_O.expand_as(centred_PO).clone()
    pairs = zip(taking_OO.T.flip(0).float(), putting_OO.T.flip(0).float(), strict=True)
    for rank, (taking_O, putting_O) in enumerate(pairs, 1):
        made_PO += (centred_PO @ taking_O)[:, None] * putting_O
        yield rank, float(goal.error(made_PO))


def check_settings(pixels: int = 1, ridge: float = 0, rounds: int = 0, order: str = ORDERS[0], **_: object) -> None:
    """Raise UserError for a setting of `reconstruct` that cannot be."""
    if order not in ORDERS:
        raise UserError(f"init.lstsq.order={order} is not known; choose one of: {', '.join(ORDERS)}.")
    for name, value, minimum in (("pixels", pixels, 1), ("rounds", rounds, 0)):
        if type(value) is not int or value < minimum:
            raise UserError(f"init.lstsq.{name}={value}: give a whole number from {minimum}.")
    if not ridge >= 0:
        raise UserError(f"init.lstsq.ridge={ridge}: give a number from 0.")


class _Positions:
    """Where one convolution's outputs are compared: as many places in each photo, the same ones each time."""

    def __init__(self, pixels: int, photos: int, seed: int, layer: int):
        self.each, self.photos, self.seed = max(1, pixels // photos), photos, (seed, layer)
        self.index_NP: Tensor | None = None

    def rows(self, map_NCHW: Tensor, first: int = 0) -> Tensor:
        """The values (P, C) in photos `first` and following."""
        n, _, height, width = map_NCHW.shape
        if self.index_NP is None:
            self.index_NP, self.width = self._draw(height * width), width
        index_NP = self.index_NP[first : first + n] + height * width * torch.arange(n)[:, None]
        return map_NCHW.permute(0, 2, 3, 1).reshape(n * height * width, -1)[index_NP.flatten()]

    def patches(self, map_NCHW: Tensor, conv: nn.Conv2d) -> Tensor:
        """The 3x3 windows (P, 9, C) of a convolution's input behind the places in all photos."""
        assert self.index_NP is not None, "places are drawn by the first `rows`"
        dilation, stride = conv.dilation[0], conv.stride[0]
        n, channels, height, width = map_NCHW.shape
        rows = map_NCHW.permute(0, 2, 3, 1).reshape(-1, channels)
        y, x = stride * (self.index_NP // self.width), stride * (self.index_NP % self.width)
        photo = torch.arange(n)[:, None]
        patches = rows.new_empty(self.index_NP.numel(), 9, channels)
        for k in range(9):
            there_y, there_x = y + dilation * (k // 3 - 1), x + dilation * (k % 3 - 1)
            inside = (there_y >= 0) & (there_y < height) & (there_x >= 0) & (there_x < width)
            index = (photo * height + there_y.clamp(0, height - 1)) * width + there_x.clamp(0, width - 1)
            patches[:, k] = rows[index.flatten()] * inside.flatten()[:, None]
        return patches

    def _draw(self, area: int) -> Tensor:
        if area <= self.each:
            return torch.arange(area).expand(self.photos, -1)
        return torch.from_numpy(np.random.default_rng(self.seed).integers(area, size=(self.photos, self.each)))


@dataclass(frozen=True)
class _Block:
    """A 3x3 convolution, the BatchNorm behind it, and whether ReLU comes next rather than a sum."""

    conv: ConvVariant
    bn: nn.BatchNorm2d
    relu: bool


def _blocks(net: nn.Module) -> dict[str, _Block]:
    """By the convolution's name, or where that is just `conv`, its block's."""
    blocks = {}
    for above, parent in net.named_modules():
        children = list(parent.named_children())
        has_relu = any(isinstance(child, nn.ReLU) for _, child in children)
        for (name, conv), (behind, bn) in pairwise(children):
            if isinstance(conv, ConvVariant) and isinstance(bn, nn.BatchNorm2d):
                relu = has_relu and behind != getattr(parent, "before_sum", None)
                blocks[f"{above}.{name}".removesuffix(".conv")] = _Block(conv, bn, relu)
    return blocks


def _dense(block: _Block) -> nn.Conv2d:
    """A block's convolution, in a dense net."""
    assert isinstance(block.conv, nn.Conv2d)
    return block.conv


def _outputs(
    dense: nn.Module, blocks: dict[str, _Block], input_N3HW: Tensor, positions: dict[str, _Positions], run: int = 8
) -> dict[str, Tensor]:
    """What each convolution of the dense net yields at its positions, a few photos at a time."""
    parts: dict[str, list[Tensor]] = {name: [] for name in positions}
    for first in range(0, len(input_N3HW), run):
        hooks = [
            blocks[name].conv.register_forward_hook(
                lambda _, x, y, name=name, first=first: parts[name].append(positions[name].rows(y, first))
            )
            for name in positions
        ]
        _run(dense, input_N3HW[first : first + run], hooks)
    return {name: torch.cat(found) for name, found in parts.items()}


def _roots(dense: nn.Module, layers: Mapping[str, nn.Module], input_N3HW: Tensor, seed: int) -> dict[str, Tensor]:
    """The square root of the metric in which each layer's errors count."""
    if not layers:
        return {}
    return {name: square_root(metric) for name, metric in metrics(dense, layers, input_N3HW[:JUDGES], seed).items()}


def _run(net: Callable[[Tensor], object], input_N3HW: Tensor, hooks: list) -> None:
    try:
        net(input_N3HW)
    finally:
        for hook in hooks:
            hook.remove()


def _weights(conv: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in conv.parameters()]


def _goal(bn: nn.BatchNorm2d, output_PO: Tensor, relu: bool, root_OO: Tensor | None) -> Goal:
    mean, variance = _statistics(bn)
    scale = bn.weight / (variance + bn.eps).sqrt()
    shift = bn.bias - mean * scale
    target = output_PO * scale + shift
    # A channel that BatchNorm all but mutes must not get weights that blow up rounding errors.
    floor = 1e-4 * scale.abs().mean() + 1e-12
    return Goal(target, torch.where(scale.abs() < floor, floor, scale), shift, relu, root_OO)


def _settle(bn: nn.BatchNorm2d, goal: Goal, made_PO: Tensor) -> None:
    """Give BatchNorm the new outputs' statistics, and the weights with which it computes what it did."""
    running_mean, running_variance = _statistics(bn)
    variance, mean = torch.var_mean((made_PO - goal.shift_O) / goal.scale_O, 0, correction=0)
    running_mean.copy_(mean)
    running_variance.copy_(variance)
    bn.weight.copy_(goal.scale_O * (variance + bn.eps).sqrt())
    bn.bias.copy_(goal.shift_O + goal.scale_O * mean)


def _statistics(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Its running mean and variance."""
    assert bn.running_mean is not None and bn.running_var is not None
    return bn.running_mean, bn.running_var


def _error(goal: Goal, made_PO: Tensor) -> float:
    target, made = goal.passed_on(goal.target_PO), goal.passed_on(made_PO)
    return float(((made - target) ** 2).sum() / ((target - target.mean(0)) ** 2).sum().clamp(min=1e-12))
