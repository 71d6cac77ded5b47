"""Choose ranks for each convolution, so that a low-rank net of a given size loses least: a config for `model=`.

    python -m u2slim.compress.ranks --weights u2netp.pth --photos DIR --share 0.5 conf/model/NAME.yaml

Of some of the dense net's convolutions a few directions span the outputs, or all of the inputs that matter, of others
not, and on some the mask hardly depends: one share for all wastes on these what the others lack. Masks are not
looked at.
"""

import argparse
import heapq
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from u2slim.compress.reconstruct import errors_by_form
from u2slim.data.photos import Photos
from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.models.normalise import Normalise
from u2slim.models.u2net import WIDTHS, ConvBNReLU, convolutions
from u2slim.zoo.published import published_net

Form = tuple[int | None, int]  # narrow and rank of a `LowRankConv`
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
    least = sum(offer[0][0] for offer in offers.values())
    most = sum(9 * inputs * outputs for inputs, outputs in channels.values())
    if not least / most <= share <= 1:
        bound = math.ceil(1000 * least / most) / 1000
        raise UserError(f"--share {share:g}: give a share from {bound} (the lowest ranks everywhere) to 1.")
    taken, left = dict.fromkeys(offers, 0), share * most - least

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path, help="the file to write")
    parser.add_argument("--photos", required=True, help="a folder of photos")
    parser.add_argument("--share", type=float, default=0.5, help="of the dense convolutions' weights")
    parser.add_argument("--width", choices=WIDTHS, default="lite")
    parser.add_argument("--weights", help="the published net of that width; by default downloaded")
    parser.add_argument("--count", type=int, default=32, help="photos to look at")
    parser.add_argument("--size", type=int, default=320, help="their side in pixels")
    options = parser.parse_args()
    try:
        write(options)
    except UserError as error:
        parser.exit(1, f"{error}\n")


def write(options: argparse.Namespace) -> None:
    for name, least in {"count": 1, "size": 32}.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name} {getattr(options, name)}: give a number from {least}.")
    if options.config.exists():
        raise UserError(
            f"{options.config} is there already, and nets may have been trained with it: name another file."
        )
    photos = Photos.below(options.photos, options.size, "--photos").squares(options.count, seed=0)
    dense = published_net(options.width, options.weights)
    errors = errors_by_form(dense, Normalise()(photos).contiguous(memory_format=torch.channels_last))
    blocks = {name: block.conv for name, block in dense.named_modules() if isinstance(block, ConvBNReLU)}
    channels = {name: (blocks[name].in_channels, blocks[name].out_channels) for name in errors}
    ranks = choose_ranks(errors, channels, options.share)
    error = sum(errors[name].get(form, 0) for name, form in ranks.items()) ** 0.5
    how = f"--share {options.share:g} --count {len(photos)} --size {options.size}"
    text = f"""# Low rank, each convolution its own: u2slim.compress.ranks --width {options.width} {how}
_target_: u2slim.models.U2Net
width: {options.width}
conv:
  _target_: u2slim.models.LowRankConv
  _partial_: true
ranks:
  {options.width}:
{_lines(ranks)}"""
    write_whole(options.config, lambda partial: partial.write_text(text))
    print(f"{len(ranks)} convolutions, the mask's logits {error:.2f} off by estimate: {options.config}")


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
