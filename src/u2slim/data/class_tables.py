"""How often each class of semantic sets is there."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from u2slim.data.catalog import CATALOG
from u2slim.data.check import Record
from u2slim.data.pairs import Pair, Problem

Usable = Sequence[tuple[Pair, Record]]


def shares(usable: Usable) -> tuple[np.ndarray, np.ndarray]:
    """Of each class, and last of none: the share of all pixels, and the number of images that show it."""
    counts = np.array([record.classes for _, record in usable], np.int64)
    return counts.sum(0) / max(1, counts.sum()), (counts > 0).sum(0)


def absent(name: str, usable: Usable) -> Iterator[Problem]:
    """A finding for each class of a set that none of its images shows."""
    if usable:
        for class_, share in zip(CATALOG[name].labels.names, shares(usable)[0], strict=False):
            if not share:
                yield Problem(name, class_, "absent class", f"no image of {CATALOG[name].title} shows {class_}")


def class_rows(usable: Mapping[str, Usable]) -> list[list[list[str]]]:
    """A table for each kind of classes, its head first: share of pixels and number of images in each set."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name, pairs in usable.items():
        if pairs:
            kinds.setdefault(CATALOG[name].labels.names, []).append(name)
    tables = []
    for names, sets in kinds.items():
        columns = [cell for name in sets for cell in (CATALOG[name].title, "images")]
        found = [shares(usable[name]) for name in sets]
        rows = [["class", *columns]]
        for index, class_ in enumerate((*names, "(none)")):
            cells = [cell for share, images in found for cell in (f"{share[index]:.2%}", f"{images[index]:,}")]
            rows.append([class_, *cells])
        tables.append(rows)
    return tables


def class_facts(name: str, usable: Usable) -> dict[str, dict[str, float]]:
    """The same of one set by class, for JSON."""
    if not usable:
        return {}
    names = (*CATALOG[name].labels.names, "(none)")
    return {
        class_: {"pixels": round(float(share), 6), "images": int(images)}
        for class_, share, images in zip(names, *shares(usable), strict=True)
    }
