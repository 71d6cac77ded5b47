"""How often each class of semantic sets is there."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from u2slim.data.check import Record
from u2slim.data.data_set import DataSet
from u2slim.data.pairs import Pair, Problem

Usable = Sequence[tuple[Pair, Record]]


def shares(usable: Usable) -> tuple[np.ndarray, np.ndarray]:
    """Of each class, and last of none: the share of all pixels, and the number of images that show it."""
    counts = np.array([record.classes for _, record in usable], np.int64)
    return counts.sum(0) / max(1, counts.sum()), (counts > 0).sum(0)


def absent(data_set: DataSet, usable: Usable) -> Iterator[Problem]:
    """A finding for each class of a set that none of its images shows."""
    if usable:
        for class_, share in zip(data_set.labels.names, shares(usable)[0], strict=False):
            if not share:
                yield Problem(data_set.name, class_, "absent class", f"no image of {data_set.title} shows {class_}")


def class_rows(usable: Mapping[DataSet, Usable]) -> list[list[list[str]]]:
    """A table for each kind of classes, its head first: share of pixels and number of images in each set."""
    kinds: dict[tuple[str, ...], list[DataSet]] = {}
    for data_set, pairs in usable.items():
        if pairs:
            kinds.setdefault(data_set.labels.names, []).append(data_set)
    tables = []
    for names, sets in kinds.items():
        columns = [cell for data_set in sets for cell in (data_set.title, "images")]
        found = [shares(usable[data_set]) for data_set in sets]
        rows = [["class", *columns]]
        for index, class_ in enumerate((*names, "(none)")):
            cells = [cell for share, images in found for cell in (f"{share[index]:.2%}", f"{images[index]:,}")]
            rows.append([class_, *cells])
        tables.append(rows)
    return tables


def class_facts(data_set: DataSet, usable: Usable) -> dict[str, dict[str, float]]:
    """The same of one set by class, for JSON."""
    if not usable:
        return {}
    names = (*data_set.labels.names, "(none)")
    return {
        class_: {"pixels": round(float(share), 6), "images": int(images)}
        for class_, share, images in zip(names, *shares(usable), strict=True)
    }
