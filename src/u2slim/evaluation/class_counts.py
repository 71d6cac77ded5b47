"""What is counted of one image whose pixels have classes, so that images can be added up to the scores of a set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from u2slim.data.labels import IGNORE, Labels
from u2slim.errors import UserError
from u2slim.images.read import Source, read_ids

GROUPED = 1000  # below it an instance file has the ids of pixels that belong to no single thing


@dataclass(frozen=True)
class ClassCounts:
    """Pixels by true and predicted class; with things, also how much of them was found.

    Args:
        confusion_CC: pixels by true class (row) and predicted class (column), without those of no class.
        things_4C: of the things of each class, in pixels, each thing weighted to count as much as one of its class's
            mean size: found as that class, missed, found as any class of its category, and missed so. None: not known.
    """

    confusion_CC: np.ndarray
    things_4C: np.ndarray | None = None

    def __add__(self, other: Self) -> "ClassCounts":
        known = self.things_4C is not None and other.things_4C is not None
        things = self.things_4C + other.things_4C if known else None  # type: ignore[operator]
        return ClassCounts(self.confusion_CC + other.confusion_CC, things)


def count(predicted_HW: np.ndarray, truth_HW: np.ndarray, labels: Labels, things: Source | None = None) -> ClassCounts:
    """What is counted of class numbers (H, W) uint8 against the truth, `IGNORE` where it has none.

    Args:
        things: the instance file, whose pixels are 1000 times the stored id of their class and the thing's number.

    Raises:
        UserError: that file cannot be read, or has another size.
    """
    confusion = confusion_of(predicted_HW, truth_HW, len(labels.names))
    if things is None:
        return ClassCounts(confusion)
    instances = read_ids(things)
    if instances.shape != truth_HW.shape:
        raise UserError(f"{things} is {instances.shape}, the labels {truth_HW.shape} (height, width).")
    return ClassCounts(confusion, _things(predicted_HW, labels, instances))


def confusion_of(predicted_HW: np.ndarray, truth_HW: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by true class (row) and predicted class (column), int64, without those of no class."""
    known = truth_HW != IGNORE
    pairs = truth_HW[known].astype(np.int64) * classes + predicted_HW[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _things(predicted_HW: np.ndarray, labels: Labels, instances_HW: np.ndarray) -> np.ndarray:
    table = np.full(256, IGNORE)
    table[list(next(iter(labels.ids.values())))] = range(len(labels.names))
    group = np.unique(labels.categories, return_inverse=True)[1]
    chosen = (instances_HW > GROUPED) & (table[instances_HW // 1000] != IGNORE)
    things, which, pixels = np.unique(instances_HW[chosen], return_inverse=True, return_counts=True)
    classes, predicted = table[things // 1000], predicted_HW[chosen]
    truth = classes[which]
    found = np.bincount(which, predicted == truth, len(things))
    near = np.bincount(which, group[predicted] == group[truth], len(things))
    weights = np.array(labels.instance_sizes)[classes] / pixels
    rows = found, pixels - found, near, pixels - near
    return np.stack([np.bincount(classes, row * weights, len(labels.names)) for row in rows])


def things_beside(mask: Source | None, labels: Labels) -> Path | None:
    """The instance file beside a label file, where a set's scores know of things and it is there."""
    if not labels.instance_sizes or not isinstance(mask, Path):
        return None
    for end in labels.ids:
        if mask.stem.endswith(end):
            beside = mask.with_name(f"{mask.stem.removesuffix(end)}_instanceIds{mask.suffix}")
            return beside if beside.is_file() else None
    return None
