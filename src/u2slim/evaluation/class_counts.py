"""What is counted of one image whose pixels have classes, so that images can be added up to the scores of a set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from u2slim.data.labels import IGNORE, Labels
from u2slim.evaluation.confusion import class_ious, merged, scores
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

    def scores(self, labels: Labels) -> dict[str, float]:
        """`mIoU`, `accuracy` and `IoU/CLASS`, and what else the set's official scores have.

        Of a set with categories also `mIoU_category` and `IoU_category/CATEGORY`. With things known `iIoU` and
        `iIoU_category`, and those of each class and category of things: hits / (hits + misses + false pixels), with
        the weighted hits and misses. What does not occur is not there, and in no mean.
        """
        found = scores(self.confusion_CC, labels.names)
        if not labels.categories:
            return found
        categories = tuple(dict.fromkeys(labels.categories))
        member_GC = np.array([[category == own for own in labels.categories] for category in categories])
        confusion_GG = merged(self.confusion_CC, member_GC)
        found |= _named("mIoU_category", "IoU_category", categories, class_ious(confusion_GG))
        if self.things_4C is None:
            return found
        counted_C = np.array(labels.instance_sizes) > 0
        ious = _thing_ious(self.confusion_CC, self.things_4C[:2], counted_C)
        counted_G = np.array([counted_C[members].all() for members in member_GC])
        ious_G = _thing_ious(confusion_GG, self.things_4C[2:] @ member_GC.T, counted_G)
        return (
            found | _named("iIoU", "iIoU", labels.names, ious) | _named("iIoU_category", "iIoU_category", categories, ious_G)
        )


def _thing_ious(confusion_CC: np.ndarray, things_2C: np.ndarray, counted_C: np.ndarray) -> np.ndarray:
    hits, misses = things_2C
    total = hits + misses + confusion_CC.sum(0) - np.diag(confusion_CC)
    return np.divide(hits, total, where=counted_C & (total > 0), out=np.full(len(hits), np.nan))


def _named(mean: str, each: str, names: Sequence[str], ious: np.ndarray) -> dict[str, float]:
    known = {f"{each}/{name}": float(iou) for name, iou in zip(names, ious, strict=True) if not np.isnan(iou)}
    return {mean: sum(known.values()) / len(known), **known} if known else {}


def count(predicted_HW: np.ndarray, truth_HW: np.ndarray, labels: Labels, things: Source | None = None) -> ClassCounts:
    """What is counted of class numbers (H, W) uint8 against the truth, `IGNORE` where it has none.

    Args:
        things: the instance file, whose pixels are 1000 times the stored id of their class and the thing's number.
    """
    known, classes = truth_HW != IGNORE, len(labels.names)
    pairs = truth_HW[known].astype(np.int64) * classes + predicted_HW[known]
    confusion = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return ClassCounts(confusion, None if things is None else _things(predicted_HW, labels, read_ids(things)))


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
