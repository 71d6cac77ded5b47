"""Choose ranks and bits for each convolution, so that a net of a given size loses least: a config for `model=`.

    python -m u2slim.compress.ranks config=conf/model/NAME.yaml photos=DIR share=0.5 weights=u2netp
    python -m u2slim.compress.ranks config=conf/model/NAME.yaml photos=DIR megabytes=0.5 gmac=6 weights=u2netp

Of some of the dense net's convolutions a few directions span the outputs, or all of the inputs that matter, of others
not, and on some the mask hardly depends: one share for all wastes on these what the others lack. The same holds for
bits. So every form of every convolution, narrow and rank and bits, has its bytes and what it costs, on one price list.
Masks are not looked at.
"""

import hashlib
import heapq
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from u2slim.cli import check_whole_number, research_command, warn_idle
from u2slim.compress.reconstruct import Form, FormErrors, errors_by_form
from u2slim.data.unlabelled import Photos
from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.models.normalise import Normalise
from u2slim.models.rounding import BITS, noise
from u2slim.models.rsu import ConvBNReLU, RSUNet
from u2slim.models.u2net import WIDTHS, U2Net, convolutions
from u2slim.sizes import Size
from u2slim.zoo import open_net
from u2slim.zoo.records import u2net_of

DENSE: Form = (None, 0)
FLOAT_BITS = 16  # of a weight that is not rounded, as files have it
# What rounding by the inputs' covariance leaves of nearest rounding's error, and a later layer's fit of that: of a
# dense convolution's weights, and of each factor's of one of low rank (docs/how/least-squares.md).
DENSE_LEFT, FACTOR_LEFT = 0.4, 0.25
OVERHEAD = 600  # bytes of a packed file for each convolution that are no weights: nodes, names, shapes


def factors(form: Form, inputs: int, outputs: int) -> list[tuple[int, int]]:
    """(rows, weights a row) of each of its convolutions."""
    narrow, rank = form
    if form == DENSE:
        return [(outputs, 9 * inputs)]
    seen = inputs if narrow is None else narrow
    return [*([(narrow, inputs)] if narrow else []), (rank, 9 * seen), (outputs, rank)]


def weights(form: Form, inputs: int, outputs: int) -> int:
    """How many a convolution of that form has, biases not counted."""
    return sum(rows * each for rows, each in factors(form, inputs, outputs))


@dataclass(frozen=True)
class Offer:
    """A form of a convolution in so many bits (None: not rounded), with what it takes and what it costs."""

    form: Form
    bits: int | None
    size: float
    macs: float
    error: float


def offers_of(measured: FormErrors, bits: Collection[int | None] = (None,), in_bytes: bool = False) -> list[Offer]:
    """All forms of one convolution in all bits, with their weights, or bytes, as size.

    Rounding adds to a form's error, for each of its factors, its share of what the whole convolution does.
    """
    offers = []
    channels = measured.inputs, measured.outputs
    for form, error in {**measured.errors, DENSE: 0.0}.items():
        count, left = weights(form, *channels), DENSE_LEFT if form == DENSE else FACTOR_LEFT
        if count > 9 * math.prod(channels):
            continue
        for each in bits:
            rows = sum(rows for rows, _ in factors(form, *channels))
            size = count * (each or FLOAT_BITS) / 8 + (4 * rows if each else 0) if in_bytes else count
            added = left * len(factors(form, *channels)) * noise(each) * measured.whole if each else 0
            offers.append(Offer(form, each, size, count * measured.places, error + added))
    return offers


def choose(offers: Mapping[str, list[Offer]], size: float, macs: float = math.inf) -> dict[str, Offer]:
    """The offers whose errors have about the least sum within a size and a number of multiplications.

    Starting at the smallest, always the step is taken that lowers an error most for what it adds. Where there are two
    bounds, what it adds is a mixture of both; of several mixtures the best is taken.

    Raises:
        UserError: not even the smallest forms keep within the bounds.
    """
    mixtures = (0.0,) if math.isinf(macs) else (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
    found = [_choose(offers, size, macs, mixture) for mixture in mixtures]
    kept = [choice for choice in found if choice is not None]
    if not kept:
        raise _too_little(offers, size, macs)
    return min(kept, key=lambda choice: sum(offer.error for offer in choice.values()))


def _choose(offers: Mapping[str, list[Offer]], size: float, macs: float, mixture: float) -> dict[str, Offer] | None:
    def price(offer: Offer) -> float:
        return offer.size / size + (mixture * offer.macs / macs if mixture else 0)

    listed: dict[str, list[Offer]] = {}  # the dearer, the better
    for name, own in offers.items():
        listed[name] = []
        for offer in sorted(own, key=lambda offer: (price(offer), offer.error)):
            if not listed[name] or offer.error < listed[name][-1].error:
                listed[name].append(offer)
    taken = dict.fromkeys(listed, 0)
    left = [
        bound - sum(part(own[0]) for own in listed.values())
        for bound, part in ((size, attrgetter("size")), (macs, attrgetter("macs")))
    ]
    if min(left) < 0:
        return None

    def fits(further: Offer, now: Offer) -> bool:
        return further.size - now.size <= left[0] and further.macs - now.macs <= left[1]

    def best_step(name: str) -> tuple[float, str, int]:
        now = listed[name][taken[name]]
        steps = (
            ((further.error - now.error) / (price(further) - price(now)), name, index)
            for index, further in enumerate(listed[name][taken[name] + 1 :], taken[name] + 1)
            if fits(further, now)
        )
        return min(steps, default=(0.0, name, -1))

    queue = [best_step(name) for name in listed]
    heapq.heapify(queue)
    while queue:
        _, name, index = heapq.heappop(queue)
        if index < 0:
            continue
        now, further = listed[name][taken[name]], listed[name][index]
        if fits(further, now):
            taken[name] = index
            left = [left[0] - further.size + now.size, left[1] - further.macs + now.macs]
        heapq.heappush(queue, best_step(name))
    return {name: listed[name][index] for name, index in taken.items()}


def _too_little(offers: Mapping[str, list[Offer]], size: float, macs: float) -> UserError:
    least, fewest = (
        sum(min(map(part, own)) for own in offers.values()) for part in (attrgetter("size"), attrgetter("macs"))
    )
    return UserError(
        f"No ranks make it that small: the lowest ones in the fewest bits take {least / size:.3f} times the size "
        f"asked for, and {fewest / macs:.3f} times the multiplications. Raise share, megabytes or gmac."
    )


@research_command("ranks")
def main(cfg: DictConfig) -> None:
    check(cfg)
    if cfg.megabytes:
        warn_idle("megabytes= is given instead", "share")
    else:
        warn_idle("bits are chosen with megabytes=", "bits")
    path = Path(cfg.config)
    dense = open_net(cfg.weights or u2net_of(cfg.width)).net()
    if not isinstance(dense, RSUNet):
        raise UserError(f"{cfg.weights} holds {dense.name}; ranks can only be chosen for nets built like U2-Net.")
    if isinstance(dense, U2Net) and dense.width != cfg.width:
        raise UserError(f"{cfg.weights} holds {dense.name}, not U2-Net of width={cfg.width}; give its width.")
    size = cfg.size or dense.preprocess.size
    measured = measured_or_kept(cfg, dense, size)
    chosen = _chosen(cfg, dense, measured)
    error = sum(offer.error for offer in chosen.values()) ** 0.5
    gmac = sum(offer.macs for offer in chosen.values()) / 1e9
    count = sum(weights(offer.form, measured[name].inputs, measured[name].outputs) for name, offer in chosen.items())
    what = {"megabytes": cfg.megabytes, "bits": cfg.bits} if cfg.megabytes else {"share": cfg.share}
    what |= {"gmac": cfg.gmac, "count": cfg.count, "size": size, "pixels": cfg.pixels}
    given = " ".join(f"{key}={value}".replace(" ", "") for key, value in what.items() if value is not None)
    text = f"# Ranks of each convolution by u2slim.compress.ranks {given}\n"
    text += f"_target_: u2slim.models.{type(dense).__name__}\n"
    if isinstance(dense, U2Net):
        text += f"width: {dense.width}\n"
    text += "conv:\n  _target_: u2slim.models.LowRankConv\n  _partial_: true\nranks:\n"
    if isinstance(dense, U2Net):
        text += f"  {dense.width}:\n"
    text += _lines(chosen, "    " if isinstance(dense, U2Net) else "  ")
    write_whole(path, lambda partial: partial.write_text(text))
    print(
        f"{len(chosen)} convolutions, {count / 1e6:.2f} M weights, {gmac:.1f} GMAC, estimated error of the mask's "
        f"logits {error:.2f}: {path}"
    )


def measured_or_kept(cfg: DictConfig, dense: RSUNet, size: Size) -> dict[str, FormErrors]:
    """What each form costs; from the file `measured=` if it is there, and else written to it.

    Raises:
        UserError: the file is damaged, or was measured with another net, other photos or other settings.
    """
    note = Path(cfg.measured) if cfg.measured else None
    photos = Photos.below(cfg.photos, size, "photos").squares(cfg.count, seed=0)
    of = {"net": _digest(dense.state_dict().values()), "photos": _digest([photos]), "pixels": cfg.pixels}
    if note is not None and note.is_file():
        try:
            kept = json.loads(note.read_text())
            was = kept.pop("of", of)  # older files do not say it
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"measured={note} cannot be read ({error}): delete it, or name another file.") from error
        if other := [name for name in of if was.get(name) != of[name]]:
            raise UserError(
                f"measured={note} was measured with another {other[0]}: name another file, or give that {other[0]} "
                "again (weights=, photos=, count=, size=, pixels=)."
            )
        return {
            name: FormErrors(**own, errors={(narrow, rank): error for narrow, rank, error in errors})
            for name, (own, errors) in kept.items()
        }
    normalised = Normalise(dense.preprocess)(photos).contiguous(memory_format=torch.channels_last)
    measured = errors_by_form(dense, normalised, cfg.pixels)
    if note is not None:
        fields = ("inputs", "outputs", "places", "whole")
        kept = {"of": of} | {
            name: (
                {field: getattr(own, field) for field in fields},
                [(*form, error) for form, error in own.errors.items()],
            )
            for name, own in measured.items()
        }
        write_whole(note, lambda partial: partial.write_text(json.dumps(kept)))
    return measured


def _digest(tensors: Iterable[torch.Tensor]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        total.update(tensor.contiguous().cpu().numpy().tobytes())
    return total.hexdigest()


def _chosen(cfg: DictConfig, dense: nn.Module, measured: Mapping[str, FormErrors]) -> dict[str, Offer]:
    macs = cfg.gmac * 1e9 if cfg.gmac else math.inf
    if cfg.megabytes is None:
        offers = {name: offers_of(own) for name, own in measured.items()}
        return choose(offers, cfg.share * sum(9 * own.inputs * own.outputs for own in measured.values()), macs)
    offers = {name: offers_of(own, cfg.bits, in_bytes=True) for name, own in measured.items()}
    blocks = [block for block in dense.modules() if isinstance(block, ConvBNReLU)]
    others = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for b in blocks for p in b.parameters())
    fixed = 2 * others + sum(4 * block.bn.num_features for block in blocks)  # heads in float16, biases in float32
    return choose(offers, cfg.megabytes * 1e6 - fixed - OVERHEAD * len(blocks), macs)


def check(cfg: DictConfig) -> None:
    """Raise UserError where a setting is missing or wrong."""
    if cfg.config is None or cfg.photos is None:
        raise UserError("Say config=FILE, the config to write, and photos=DIR, a folder of photos.")
    if cfg.width not in WIDTHS:
        raise UserError(f"width={cfg.width} is not known; choose one of: {', '.join(WIDTHS)}.")
    for name in ("share", "megabytes", "gmac"):
        value = cfg[name]
        if not (type(value) in (int, float) and value > 0) and not (value is None and name != "share"):
            raise UserError(f"{name}={value}: give a number above 0.")
    if not cfg.bits or not all(type(each) is int and each in BITS for each in cfg.bits):
        raise UserError(f"bits={cfg.bits}: give a list of whole numbers from {BITS.start} to {BITS.stop - 1}.")
    check_whole_number(cfg, "count", 1)
    check_whole_number(cfg, "pixels", 1)
    if cfg.size is not None:
        check_whole_number(cfg, "size", 32)
    if Path(cfg.config).exists():
        raise UserError(f"{cfg.config} is there already, and nets may have been trained with it: name another file.")


def _lines(chosen: Mapping[str, Offer], indent: str) -> str:
    """The ranks as YAML, a line a stage; what has none is dense."""
    most = max((offer.bits for offer in chosen.values() if offer.bits), default=None)
    dense = Offer(DENSE, most, 0, 0, 0)
    lines = []
    for stage, names in convolutions().items():
        forms = (f"{name}: {_word(chosen.get(f'{stage}.{name}', dense))}" for name in names)
        lines.append(f"{indent}{stage}: {{{', '.join(forms)}}}\n")
    return "".join(lines)


def _word(offer: Offer) -> str:
    narrow, rank = offer.form
    word = str(rank) if narrow is None else f"{narrow}-{rank}"
    return f"{word}@{offer.bits}" if offer.bits else word


if __name__ == "__main__":
    main()
