"""The list of validation images: drawn once from a seed, kept as a file, and checked whenever it is used."""

import csv
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from u2slim.data.check import Record
from u2slim.data.duplicates import DuplicateIndex
from u2slim.data.pairs import Pair
from u2slim.errors import UserError
from u2slim.files import write_whole

COLUMNS = ("set", "name", "image", "mask")  # the last two are the BLAKE2b hashes of the files' bytes

log = logging.getLogger(__name__)

Checked = Sequence[tuple[Pair, Record]]


class _Training:
    """The training pairs, by what they show."""

    def __init__(self, train: Checked):
        self.pairs = [pair for pair, _ in train]
        self._duplicates = DuplicateIndex([record for _, record in train])

    def copies(self, pair: Pair, record: Record) -> list[Pair]:
        """Those that show the picture of a pair, itself aside."""
        found = (self.pairs[index] for index in self._duplicates.find(record))
        return [other for other in found if (other.set, other.name) != (pair.set, pair.name)]


def hold_out(train: Checked, bare: Checked, count: int, seed: int) -> list[Pair]:
    """`count` of the training pairs as `choose` draws them; where they are too few, all that show one picture, too.

    So images that look alike, as the frames of a fixed camera, stay together on one side; training keeps some. None
    shows a picture of `bare`, which are trained on, too.
    """
    pairs = [pair for pair, _ in train]
    drawn = choose(train, [*train, *bare], count, seed)
    chosen = {index for index, pair in enumerate(pairs) if pair in set(drawn)}
    if len(chosen) < count:
        others = _Training(bare)
        barred = chosen | {index for index, one in enumerate(train) if others.copies(*one)}
        groups = [group for group in _alike(train) if barred.isdisjoint(group)]
        order = np.random.default_rng([seed, 3]).permutation(len(groups)).tolist()
        for group in sorted((groups[index] for index in order), key=len):
            fits = len(chosen) + len(group) <= count or not chosen
            if fits and len(chosen) + len(group) < len(pairs):
                chosen |= group
    if len(chosen) > len(drawn):
        log.info("validation: %d images that look alike are held out together", len(chosen) - len(drawn))
    return [pairs[index] for index in sorted(chosen)]


def all_alike(train: Checked) -> bool:
    """Whether several pairs are linked by what they show, so that no split of them keeps repeats apart."""
    return len(train) > 1 and len(_alike(train)) == 1


def draw(candidates: Checked, count: int, seed: int) -> list[Pair]:
    """`count` of the candidates at random, in their order, whatever they show."""
    order = np.random.default_rng([seed, 2]).permutation(len(candidates))
    return [candidates[index][0] for index in sorted(order[:count].tolist())]


def _alike(train: Checked) -> list[set[int]]:
    """The pairs by number, in groups that share no picture."""
    every, group_of = DuplicateIndex([record for _, record in train]), {}
    for index, (_, record) in enumerate(train):
        merged = {index}.union(*(group_of.get(other, {other}) for other in every.find(record)))
        group_of |= dict.fromkeys(merged, merged)
    return list({min(group): group for group in group_of.values()}.values())


def choose(candidates: Checked, train: Checked, count: int, seed: int) -> list[Pair]:
    """`count` of the candidates at random, in their order: none shows a picture of `train`, and none twice the same.

    Flipped or cropped copies are not recognised. A candidate that is itself a training pair may be drawn; then nothing
    else in `train` shows its picture.
    """
    training = _Training(train)
    every = DuplicateIndex([record for _, record in candidates])
    chosen, repeats = set(), set()
    for index in np.random.default_rng([seed, 2]).permutation(len(candidates)).tolist():
        pair, record = candidates[index]
        if len(chosen) >= count:
            break
        if training.copies(pair, record) or not chosen.isdisjoint(every.find(record)):
            repeats.add(index)
        else:
            chosen.add(index)
    if repeats:
        log.info("validation: %d images left out, as they repeat a training or a validation image", len(repeats))
    return [candidates[index][0] for index in sorted(chosen)]


def write(path: Path, pairs: Sequence[Pair], records: Mapping[Pair, Record]) -> None:
    """The manifest of `pairs` as CSV."""

    def save(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(COLUMNS)
            rows.writerows((p.set, p.name, records[p].image_hash, records[p].mask_hash) for p in pairs)

    write_whole(path, save)


def named(path: Path, candidates: Checked, train: Checked) -> list[Pair]:
    """The pairs whose names a text file has, one a line, with or without extension; `#` begins a remark.

    Raises:
        UserError: one is not among the candidates, or shows what a training image that is not listed shows.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.val_list={path} cannot be read ({error}).") from error
    there = {pair.name: (pair, record) for pair, record in candidates}
    found = {line: there.get(line) or there.get(str(PurePosixPath(line).with_suffix(""))) for line in lines if line}
    if missing := [line for line, one in found.items() if one is None]:
        raise UserError(
            f"data.val_list={path}: {len(missing)} of {len(found)} names are no images of the set, e.g. "
            f"{', '.join(missing[:3])}; a name looks like {next(iter(there), 'IMAGE')}."
        )
    if not found:
        raise UserError(f"data.val_list={path} names no images.")
    listed = {pair for pair, _ in found.values()}
    training = _Training([one for one in train if one[0] not in listed])
    if faults := [
        f"{pair.name} ({copies[0].name})"
        for pair, record in found.values()
        if (copies := training.copies(pair, record))
    ]:
        raise UserError(
            f"data.val_list={path}: {len(faults)} images look like training images: {', '.join(faults[:3])}; list "
            "those, too, or allow it with data.repeats_apart=false."
        )
    return [pair for pair, _ in found.values()]


def read(path: Path, candidates: Checked, train: Checked) -> list[Pair]:
    """The manifest's pairs, which must all be among the candidates, unchanged, and must not repeat a training image.

    What is listed is held out, so that two that are listed may repeat each other.

    Raises:
        UserError: they do not, or the file is no manifest; all such rows are named.
    """
    remedy = f"Mend the data, or delete {path} to draw the validation images anew."
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [tuple(row[column] for column in COLUMNS) for row in csv.DictReader(file)]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no list of validation images ({error!r}); its columns are {COLUMNS}.") from error
    there = {(pair.set, pair.name): (pair, record) for pair, record in candidates}
    listed = {(set_, name) for set_, name, *_ in rows}
    training = _Training([one for one in train if (one[0].set, one[0].name) not in listed])
    pairs = []
    faults = [f"{set_}/{name} is listed twice" for (set_, name, *_), times in Counter(rows).items() if times > 1]
    for set_, name, image_hash, mask_hash in rows:
        pair, record = there.get((set_, name), (None, None))
        if pair is None:
            faults.append(f"{set_}/{name} is not there")
        elif (record.image_hash, record.mask_hash) != (image_hash, mask_hash):
            faults.append(f"{set_}/{name} has changed")
        elif copies := training.copies(pair, record):
            faults.append(f"{set_}/{name} is also in training, as {copies[0].set}/{copies[0].name}")
        else:
            pairs.append(pair)
    if faults:
        text = "\n  ".join([f"{len(faults)} of {len(rows)} validation images of {path} cannot be used:", *faults])
        raise UserError(f"{text}\n{remedy}")
    if not pairs:
        raise UserError(f"{path} names no validation images. {remedy}")
    return pairs
