"""Choose ranks for each convolution, so that a low-rank net of a given size loses least: a config for `model=`.

    python -m u2slim.compress.ranks config=conf/model/NAME.yaml photos=DIR share=0.5 weights=u2netp.pth

Of some of the dense net's convolutions a few directions span the outputs, or all of the inputs that matter, of others
not, and on some the mask hardly depends: one share for all wastes on these what the others lack. Masks are not
looked at.
"""

import heapq
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from u2slim.cli import check_whole_number, research_command
from u2slim.compress.reconstruct import Form, errors_by_form
from u2slim.data.unlabelled import Photos
from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.models.normalise import Normalise
from u2slim.models.rsu import ConvBNReLU
from u2slim.models.u2net import WIDTHS, U2Net, convolutions
from u2slim.zoo import open_net
from u2slim.zoo.records import u2net_of

DENSE: Form = (None, 0)


def weights(form: Form, inputs: int, outputs: int) -> int:
    """How many a convolution of that form has, biases not counted."""
    narrow, rank = form
    if form == DENSE:
        return 9 * inputs * outputs
    seen = inputs if narrow is None else narrow
    return inputs * (narrow or 0) + 9 * seen * rank + rank * outputs


def choose_ranks(
    errors: Mapping[str, Mapping[Form, float]], channels: Mapping[str, tuple[int, int]], share: float
) -> dict[str, Form]:
    """The forms whose errors have about the least sum with that share of the dense weights.

    Starting at the fewest weights, always the step is taken that lowers an error most for each weight that it adds.

    Args:
        errors: of each convolution by its form, such as add up: squares. That of the dense one is 0.
        channels: (in, out) of each.

    Raises:
        UserError: the share is above 1 or below what the smallest forms take.
    """
    offers: dict[str, list[tuple[int, float, Form]]] = {}  # (weights, error, form), the more weights the less error
    for name, (inputs, outputs) in channels.items():
        known = [(weights(form, inputs, outputs), error, form) for form, error in {**errors[name], DENSE: 0.0}.items()]
        offers[name] = []
        for offer in sorted(known, key=lambda offer: offer[:2]):
            if offer[0] <= 9 * inputs * outputs and (not offers[name] or offer[1] < offers[name][-1][1]):
                offers[name].append(offer)
    min_weights = sum(offer[0][0] for offer in offers.values())
    max_weights = sum(9 * inputs * outputs for inputs, outputs in channels.values())
    if not min_weights / max_weights <= share <= 1:
        bound = math.ceil(1000 * min_weights / max_weights) / 1000
        raise UserError(f"share={share:g}: give a share from {bound} (the lowest ranks everywhere) to 1.")
    taken, left = dict.fromkeys(offers, 0), share * max_weights - min_weights

    def best_step(name: str) -> tuple[float, str, int]:
        at = taken[name]
        size, error, _ = offers[name][at]
        steps = [
            ((further - error) / (more - size), name, index)
            for index, (more, further, _) in enumerate(offers[name][at + 1 :], at + 1)
            if more - size <= left
        ]
        return min(steps, default=(0.0, name, -1))

    queue = [best_step(name) for name in offers]
    heapq.heapify(queue)
    while queue:
        _, name, index = heapq.heappop(queue)
        if index < 0:
            continue
        added = offers[name][index][0] - offers[name][taken[name]][0]
        if added <= left:
            taken[name], left = index, left - added
        heapq.heappush(queue, best_step(name))
    return {name: offers[name][index][2] for name, index in taken.items()}


@research_command("ranks")
def main(cfg: DictConfig) -> None:
    check(cfg)
    path = Path(cfg.config)
    dense = open_net(cfg.weights or u2net_of(cfg.width)).net()
    if not isinstance(dense, U2Net) or dense.width != cfg.width:
        raise UserError(f"{cfg.weights} holds {dense.name}, not U2-Net of width={cfg.width}; give its width.")
    photos = Photos.below(cfg.photos, cfg.size, "photos").squares(cfg.count, seed=0)
    normalised = Normalise(dense.preprocess)(photos).contiguous(memory_format=torch.channels_last)
    errors = errors_by_form(dense, normalised)
    blocks = {name: block.conv for name, block in dense.named_modules() if isinstance(block, ConvBNReLU)}
    channels = {
        name: (conv.in_channels, conv.out_channels)
        for name, conv in blocks.items()
        if name in errors and isinstance(conv, nn.Conv2d)
    }
    ranks = choose_ranks(errors, channels, cfg.share)
    error = sum(errors[name].get(form, 0) for name, form in ranks.items()) ** 0.5
    how = f"width={cfg.width} share={cfg.share:g} count={len(photos)} size={cfg.size}"
    text = f"""# Low rank, each convolution its own: u2slim.compress.ranks {how}
_target_: u2slim.models.U2Net
width: {cfg.width}
conv:
  _target_: u2slim.models.LowRankConv
  _partial_: true
ranks:
  {cfg.width}:
{_lines(ranks)}"""
    write_whole(path, lambda partial: partial.write_text(text))
    print(f"{len(ranks)} convolutions, the mask's logits {error:.2f} off by estimate: {path}")


def check(cfg: DictConfig) -> None:
    """Raise UserError where a setting is missing or wrong."""
    if cfg.config is None or cfg.photos is None:
        raise UserError("Say config=FILE, the config to write, and photos=DIR, a folder of photos.")
    if cfg.width not in WIDTHS:
        raise UserError(f"width={cfg.width} is not known; choose one of: {', '.join(WIDTHS)}.")
    if type(cfg.share) not in (int, float):
        raise UserError(f"share={cfg.share}: give a number up to 1.")
    check_whole_number(cfg, "count", 1)
    check_whole_number(cfg, "size", 32)
    if Path(cfg.config).exists():
        raise UserError(f"{cfg.config} is there already, and nets may have been trained with it: name another file.")


def _lines(ranks: Mapping[str, Form]) -> str:
    """The ranks as YAML, a line a stage; what has none is dense."""
    lines = []
    for stage, names in convolutions().items():
        forms = (f"{name}: {_word(ranks.get(f'{stage}.{name}', DENSE))}" for name in names)
        lines.append(f"    {stage}: {{{', '.join(forms)}}}\n")
    return "".join(lines)


def _word(form: Form) -> str:
    narrow, rank = form
    return str(rank) if narrow is None else f"{narrow}-{rank}"


if __name__ == "__main__":
    main()
