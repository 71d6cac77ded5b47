"""The photos that nets are chosen by, none of which a table of nets shows: docs/lab/selection.md."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from u2slim.data.catalog import get_data_set
from u2slim.data.data_set import DataSet
from u2slim.data.dataset import load_pair
from u2slim.data.derived import crop, ground, paste, recolour
from u2slim.data.pairs import Pair, expected_places, list_pairs, refuse
from u2slim.data.sample import render
from u2slim.data.unlabelled import held_out
from u2slim.errors import UserError
from u2slim.files import user_path
from u2slim.images.photos import find_photos
from u2slim.images.read import read_image

DERIVED = ("crops", "pasted", "colours", "generated")
INGREDIENTS = ("duts", "davis", *DERIVED)
COUNTS = {"duts": 200, "davis": 60}
QUICK = {"duts": 30, "davis": 30}


@dataclass(frozen=True, eq=False)
class Shown:
    """One photo, RGB (H, W, 3), with its mask (H, W), both uint8, if it has one; photos of a `group` count as one."""

    ingredient: str
    name: str
    group: str
    image: np.ndarray
    mask: np.ndarray | None


@lru_cache(maxsize=2)  # some 200 MB, which every net is shown
def selection_set(
    root: str, davis: str, seed: int = 0, quick: bool = False, photos: str | None = None, derived: int = 0
) -> tuple[Shown, ...]:
    """All photos, a function of the folders and the seed.

    Args:
        root: a folder with DUTS-TR, as its archive unpacks it or as shards; its held-out photos are taken.
        davis: a folder whose `images` and `masks` are frames named SEQUENCE-NUMBER.
        seed: draws what is derived.
        quick: some 60 photos.
        photos: a folder of further photos, which need no masks.
        derived: so many further photos of each sort in `DERIVED`.

    Raises:
        UserError: a folder or its photos are not there, or one cannot be read.
    """
    counts = QUICK if quick else COUNTS
    shown = [Shown("duts", pair.name, pair.name, *load_pair(pair)) for pair in held_out_pairs(root)[: counts["duts"]]]
    frames = _spread(frames_of(davis), counts["davis"])
    shown += [Shown("davis", pair.name, _sequence(pair), *load_pair(pair)) for pair in frames]
    own = find_photos(photos, setting="photos") if photos is not None else []
    bare = (Shown("photos", str(name), str(name), read_image(path), None) for path, name in own)
    return (*shown, *_derived(shown, seed, derived), *bare)


def held_out_pairs(root: str | Path) -> list[Pair]:
    """The pairs of DUTS-TR that no fit looks at.

    Raises:
        UserError: DUTS-TR is not there.
    """
    duts = get_data_set("duts_tr")
    listing = list_pairs(duts, root)
    if listing is None:
        raise UserError(f"root={root} has no DUTS-TR, looked for as {expected_places(duts, root)}. Give its folder.")
    refuse(listing.problems)
    pairs = sorted(listing.pairs, key=lambda pair: pair.image.name)  # as a fit sorts the files of their folder
    return [pairs[index] for index in held_out(len(pairs))]


def frames_of(davis: str | Path) -> list[Pair]:
    """The frames with masks in a folder, by name.

    Raises:
        UserError: there are none.
    """
    folders = tuple(str(user_path(davis) / name) for name in ("images", "masks"))
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        raise UserError(f"davis={davis}: there is no folder {missing[0]}; give the folder that holds images and masks.")
    listing = list_pairs(DataSet("davis", folders=folders), davis)
    assert listing is not None  # one's own set is there, or an error says what is not
    refuse(listing.problems)
    return listing.pairs


def _sequence(pair: Pair) -> str:
    return pair.name.rpartition("-")[0] or pair.name


def _spread(pairs: list[Pair], count: int) -> list[Pair]:
    """So many of them, evenly over the list."""
    steps = np.linspace(0, len(pairs), min(count, len(pairs)), endpoint=False)
    return [pairs[int(step)] for step in steps]


def _derived(originals: list[Shown], seed: int, count: int) -> Iterator[Shown]:
    for number, kind in enumerate(DERIVED):
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            one, other = (originals[at] for at in rng.choice(len(originals), 2, replace=len(originals) < 2))
            assert one.mask is not None and other.mask is not None
            image, mask = one.image, one.mask
            if kind == "generated":
                image, mask = render(seed, index)
            elif kind == "crops":
                image, mask = crop(image, mask, rng)
            elif kind == "pasted":
                image = paste(image, mask, ground(other.image, other.mask), rng)
            else:
                image = recolour(image, rng)
            name = f"{kind}-{index}"
            yield Shown(kind, name, name, image, mask)
