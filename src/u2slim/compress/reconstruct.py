"""Layer-by-layer least squares: each new convolution is solved for what the dense net's made of the same photos."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from u2slim.compress.frontier import Frontier
from u2slim.compress.sensitivity import metrics, square_root
from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.models.conv import ConvVariant
from u2slim.models.least_squares import Goal, Narrowing, Regression, principal_directions

log = logging.getLogger(__name__)

ORDERS = ("sequential", "independent")
Form = tuple[int | None, int]  # narrow and rank of a `LowRankConv`


@dataclass(frozen=True)
class FormErrors:
    """What forms of a convolution, which has so many channels and places in its output, cost.

    `whole` is what it costs to make nothing but the mean.
    """

    inputs: int
    outputs: int
    places: int
    errors: Mapping[Form, float]
    whole: float


JUDGES = 16  # photos that say what counts; the matrices hardly change with more
RUN_PIXELS = 8 * 320 * 320  # that go through a net at a time
JUDGED_ON = 3000  # positions, of held-out photos, that say what a form costs
RANKS = 32  # of a form with so many channels, which are measured
FORM_RIDGE = 1e-3


@torch.no_grad()
def reconstruct(
    dense: nn.Module,
    net: nn.Module,
    input_N3HW: Tensor,
    pixels: int = 40_000,
    ridge: float = 0.1,
    rounds: int = 12,
    relu: bool = True,
    alternate: bool = True,
    order: str = "sequential",
    weigh: bool = True,
    keep: str | Path | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Refill every 3x3 convolution of `net` that is not dense itself, in forward order, without any gradient.

    What a convolution gets is what the layers before it, already refilled, make of the photos; what it should yield is
    what the dense net yields there. Its BatchNorm gets the new outputs' statistics, and the weights with which it
    still computes the same: so the net acts alike in training, where BatchNorm goes by the batch. Convolutions that
    are dense are refilled, too, if they have `bits`.

    Args:
        dense: the net to imitate, of the same structure with standard convolutions.
        net: the net to refill, with the dense net's BatchNorms, and kernels to start from (`transfer`).
        input_N3HW: normalised photos, of which few go through a net at a time (`Frontier`).
        pixels: positions of the outputs to fit, drawn evenly from all photos.
        ridge: of each regression, towards the dense weights, relative to the mean square of its inputs.
        rounds: of fitting anew behind ReLU, and of solving for depthwise and pointwise weights in turns.
        relu: aim at outputs behind ReLU (negative values are all alike) rather than before it.
        alternate: solve for depthwise weights too, not for pointwise ones only.
        order: `sequential` as above; `independent`: each convolution gets the dense net's input.
        weigh: let errors count by what they do to the dense net's output (`compress.sensitivity`), not all alike.
        keep: a folder for what is solved. A run that was killed continues from there, to the same weights.

    Returns:
        each convolution's error behind BatchNorm (and ReLU), relative to the variance there.

    Raises:
        UserError: a setting that cannot be, or a folder that holds another run's convolutions.
    """
    check_settings(pixels=pixels, ridge=ridge, rounds=rounds, order=order)
    dense_blocks = _blocks(dense)
    blocks = {
        name: block
        for name, block in _blocks(net).items()
        if block.conv.bits or _weights(block.conv) != _weights(dense_blocks[name].conv)
    }
    if not blocks:
        return {}
    bits = [block.conv.bits for block in blocks.values()]
    settings = pixels, ridge, rounds, relu, alternate, order, weigh, seed, bits
    kept = None if keep is None else _Kept(Path(keep), (settings, repr(net), dense, input_N3HW))
    positions = {name: _Positions(pixels, len(input_N3HW), seed, i) for i, name in enumerate(blocks)}
    dense, net = dense.eval(), net.eval()
    weighted = {name: dense_blocks[name].bn for name, block in blocks.items() if weigh and block.conv.weighted_fit}
    errors: dict[str, float] = {}
    with TemporaryDirectory(prefix="u2slim-") as folder, Progress(transient=True) as bar:
        roots = _roots(dense, weighted, input_N3HW, seed)
        outputs = _outputs(dense, dense_blocks, input_N3HW, positions)
        task = bar.add_task("least squares", total=len(blocks))
        frontier = Frontier(dense if order == "independent" else net, input_N3HW, Path(folder), _run_of(input_N3HW))
        seen_by = {name: (dense_blocks if order == "independent" else blocks)[name].conv for name in blocks}
        for name in frontier.visit(seen_by):
            block, dense_block = blocks[name], dense_blocks[name]
            output_PO = outputs.pop(name)
            if kept is None or not kept.restore(name, block, errors):
                goal = _goal(dense_block, output_PO, relu and dense_block.relu, roots.get(name))
                patches_P9I = _gathered(frontier, seen_by[name], positions[name], _dense(dense_block))
                made_PO = block.conv.fit(patches_P9I, goal, ridge, rounds, alternate)
                del patches_P9I
                _settle(block.bn, goal, made_PO)
                errors[name] = _error(goal, made_PO)
                if kept is not None:
                    kept.save(name, block, errors)
            bar.advance(task)
    log.info("least squares over %d convolutions: mean error %.3f", len(errors), sum(errors.values()) / len(errors))
    return errors


@torch.no_grad()
def errors_by_form(
    dense: nn.Module,
    input_N3HW: Tensor,
    pixels: int = 20_000,
    seed: int = 0,
    names: Collection[str] | None = None,
) -> dict[str, FormErrors]:
    """What each 3x3 convolution with more than three inputs costs if inputs are narrowed and outputs of low rank.

    By the block's name. An error is the mean squared change of the net's output, as `u2slim.compress.sensitivity`
    estimates it for the errors of that convolution alone, behind BatchNorm and ReLU. Forms are made for three photos
    in four, and what they cost is measured on the others.

    Args:
        dense: the net.
        input_N3HW: normalised photos, of which few go through the net at a time (`Frontier`).
        pixels: positions of the outputs to compare, drawn evenly from all photos.
        seed: of the positions and of the estimate.
        names: of the blocks to measure; None: all.
    """
    dense = dense.eval()
    blocks = {name: block for name, block in _blocks(dense).items() if _dense(block).in_channels > 3}
    positions = {name: _Positions(pixels, len(input_N3HW), seed, i) for i, name in enumerate(blocks)}
    blocks = {name: block for name, block in blocks.items() if names is None or name in names}
    measured: dict[str, FormErrors] = {}
    with TemporaryDirectory(prefix="u2slim-") as folder, Progress(transient=True) as bar:
        roots = _roots(dense, {name: block.bn for name, block in blocks.items()}, input_N3HW, seed)
        task = bar.add_task("what each rank costs", total=len(blocks))
        frontier = Frontier(dense, input_N3HW, Path(folder), _run_of(input_N3HW))
        for name in frontier.visit({name: block.conv for name, block in blocks.items()}):
            conv = _dense(blocks[name])
            patches_P9I = _gathered(frontier, conv, positions[name], conv)
            weight_CO = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)
            output_PO = patches_P9I.flatten(1) @ weight_CO
            if conv.bias is not None:
                output_PO += conv.bias
            goal = _goal(blocks[name], output_PO, blocks[name].relu, roots[name])
            measured[name] = FormErrors(
                conv.in_channels, conv.out_channels, positions[name].area, *_errors_of_forms(patches_P9I, goal)
            )
            bar.advance(task)
    return measured


def _errors_of_forms(patches_P9I: Tensor, goal: Goal) -> tuple[dict[Form, float], float]:
    """By form, and the error of saying nothing but the mean."""
    assert goal.prior_CO is not None
    judges = max(1, len(patches_P9I) // 4)
    first = slice(max(1, len(patches_P9I) - judges))
    last = slice(len(patches_P9I) - judges, None, -(-judges // JUDGED_ON))
    inputs, fitted, judged = patches_P9I.shape[2], goal.at(first), goal.at(last)
    errors: dict[Form, float] = {}
    whole = float(judged.error(fitted.target_PO.mean(0).expand_as(judged.target_PO)))

    def judge(narrow: int | None, made_PO: Tensor, unseen_PO: Tensor) -> None:
        errors.update({(narrow, rank): error for rank, error in _errors_by_rank(made_PO, unseen_PO, judged)})

    judge(None, fitted.target_PO, judged.target_PO)
    spread = Regression(patches_P9I[first].flatten(1), FORM_RIDGE).spread
    narrowing = Narrowing(spread, goal.weighted(goal.prior_CO[:-1]))
    directions_II = narrowing.directions()
    for channels in range(max(1, inputs // 8), inputs, max(1, inputs // 16)):
        narrow_IN = directions_II[:, -channels:]
        behind_CO = goal.unweighted(narrowing.behind(narrow_IN).flatten(0, 1)).float()
        made, unseen = ((patches_P9I[part] @ narrow_IN.float()).flatten(1) @ behind_CO for part in (first, last))
        shift_O = (fitted.target_PO - made).mean(0)
        judge(channels, made + shift_O, unseen + shift_O)
    return errors, whole


def _errors_by_rank(made_PO: Tensor, unseen_PO: Tensor, judged: Goal) -> Iterator[tuple[int, float]]:
    """What some of the principal components of outputs cost where they were not taken from: a few numbers of them."""
    mean_O, taking_OO, putting_OO = principal_directions(made_PO, judged.root_OO)
    taken_PO = (unseen_PO - mean_O) @ taking_OO.float()
    outputs = len(mean_O)
    step = max(1, outputs // RANKS)
    for rank in range(step, outputs + 1, step):
        kept_PO = mean_O + taken_PO[:, -rank:] @ putting_OO[:, -rank:].T.float()
        yield rank, float(judged.error(kept_PO))


def _gathered(frontier: Frontier, conv: nn.Module, positions: "_Positions", dense: nn.Conv2d) -> Tensor:
    """The windows (P, 9, I) of what reaches a convolution."""
    first, parts = 0, []
    for x_BIHW in frontier.inputs(conv):
        parts.append(positions.patches(x_BIHW, dense, first))
        first += len(x_BIHW)
    return torch.cat(parts)


def _run_of(input_N3HW: Tensor) -> int:
    """How many photos go through a net at a time."""
    return max(1, RUN_PIXELS // input_N3HW[0, 0].numel())


class _Kept:
    """What is solved already, in a folder that is one run's own."""

    def __init__(self, folder: Path, made_of: tuple):
        self.folder = folder
        settings, structure, dense, input_N3HW = made_of
        digest = sha256(repr((settings, structure, input_N3HW.shape)).encode())
        for tensor in (*dense.state_dict().values(), input_N3HW):
            digest.update(tensor.contiguous().numpy().tobytes())
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "made_of"
        if note.is_file() and note.read_text() != digest.hexdigest():
            raise UserError(
                f"init.lstsq.keep={folder} holds convolutions of another net, photos or settings; name another folder."
            )
        write_whole(note, lambda partial: partial.write_text(digest.hexdigest()))

    def save(self, name: str, block: "_Block", errors: dict[str, float]) -> None:
        state = {"conv": block.conv.state_dict(), "bn": block.bn.state_dict(), "error": errors[name]}
        write_whole(self.folder / f"{name}.pt", lambda partial: torch.save(state, partial))

    def restore(self, name: str, block: "_Block", errors: dict[str, float]) -> bool:
        path = self.folder / f"{name}.pt"
        if not path.is_file():
            return False
        state = torch.load(path, weights_only=True)
        block.conv.load_state_dict(state["conv"])
        block.bn.load_state_dict(state["bn"])
        errors[name] = state["error"]
        return True


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
            self.index_NP = self._draw(height * width)
        index_NP = self.index_NP[first : first + n] + height * width * torch.arange(n)[:, None]
        return map_NCHW.permute(0, 2, 3, 1).reshape(n * height * width, -1)[index_NP.flatten()]

    def patches(self, map_NCHW: Tensor, conv: nn.Conv2d, first: int = 0) -> Tensor:
        """The 3x3 windows (P, 9, C) of a convolution's input behind the places in photos `first` and following."""
        dilation, stride = conv.dilation[0], conv.stride[0]
        n, channels, height, width = map_NCHW.shape
        out_height, out_width = -(-height // stride), -(-width // stride)
        if self.index_NP is None:
            self.index_NP = self._draw(out_height * out_width)
        rows = map_NCHW.permute(0, 2, 3, 1).reshape(-1, channels)
        index_NP = self.index_NP[first : first + n]
        y, x = stride * (index_NP // out_width), stride * (index_NP % out_width)
        photo = torch.arange(n)[:, None]
        patches = rows.new_empty(index_NP.numel(), 9, channels)
        for k in range(9):
            there_y, there_x = y + dilation * (k // 3 - 1), x + dilation * (k % 3 - 1)
            inside = (there_y >= 0) & (there_y < height) & (there_x >= 0) & (there_x < width)
            index = (photo * height + there_y.clamp(0, height - 1)) * width + there_x.clamp(0, width - 1)
            patches[:, k] = rows[index.flatten()] * inside.flatten()[:, None]
        return patches

    def _draw(self, area: int) -> Tensor:
        self.area = area
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
    dense: nn.Module, blocks: dict[str, _Block], input_N3HW: Tensor, positions: dict[str, _Positions]
) -> dict[str, Tensor]:
    """What each convolution of the dense net yields at its positions, a few photos at a time."""
    parts: dict[str, list[Tensor]] = {name: [] for name in positions}
    run = _run_of(input_N3HW)
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


def _goal(dense: _Block, output_PO: Tensor, relu: bool, root_OO: Tensor | None) -> Goal:
    bn, conv = dense.bn, _dense(dense)
    mean, variance = _statistics(bn)
    scale = bn.weight / (variance + bn.eps).sqrt()
    shift = bn.bias - mean * scale
    target = output_PO * scale + shift
    # A channel that BatchNorm all but mutes must not get weights that blow up rounding errors.
    floor = 1e-4 * scale.abs().mean() + 1e-12
    scale = torch.where(scale.abs() < floor, floor, scale)
    constant = shift if conv.bias is None else shift + conv.bias * scale
    prior_CO = torch.cat((conv.weight.permute(2, 3, 1, 0).flatten(0, 2) * scale, constant[None])).double()
    return Goal(target, scale, shift, relu, root_OO, prior_CO)


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
