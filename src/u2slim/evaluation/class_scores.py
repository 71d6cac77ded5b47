"""The scores of a set whose pixels have classes, from what was counted of all its images together."""

from collections.abc import Sequence

import numpy as np

from u2slim.data.labels import Labels
from u2slim.evaluation.class_counts import ClassCounts
from u2slim.evaluation.confusion import class_ious, merged, scores

# What tables call the means; the later ones are those of sets whose official scores have them.
MEANS = {
    "mIoU": "mIoU",
    "accuracy": "accuracy",
    "mIoU_category": "mIoU category",
    "iIoU": "iIoU",
    "iIoU_category": "iIoU category",
}


def class_scores(counts: ClassCounts, labels: Labels) -> dict[str, float]:
    """`mIoU`, `accuracy` and `IoU/CLASS`, and what else the set's official scores have.

    Of a set with categories also `mIoU_category` and `IoU_category/CATEGORY`. With things known `iIoU` and
    `iIoU_category`, and those of each class and category of things: hits / (hits + misses + false pixels), with the
    weighted hits and misses. What does not occur is not there, and in no mean.

    Source: evalPixelLevelSemanticLabeling.py of github.com/mcordts/cityscapesScripts, whose numbers these are.
    """
    found = scores(counts.confusion_CC, labels.names)
    if not labels.categories:
        return found
    categories = tuple(dict.fromkeys(labels.categories))
    member_GC = np.array([[category == own for own in labels.categories] for category in categories])
    confusion_GG = merged(counts.confusion_CC, member_GC)
    found |= _named("mIoU_category", "IoU_category", categories, class_ious(confusion_GG))
    if counts.things_4C is None:
        return found
    has_things_C = np.array(labels.instance_sizes) > 0
    has_things_G = np.array([has_things_C[members].all() for members in member_GC])
    ious = _thing_ious(counts.confusion_CC, counts.things_4C[:2], has_things_C)
    ious_G = _thing_ious(confusion_GG, counts.things_4C[2:] @ member_GC.T, has_things_G)
    found |= _named("iIoU", "iIoU", labels.names, ious)
    return found | _named("iIoU_category", "iIoU_category", categories, ious_G)


def _thing_ious(confusion_CC: np.ndarray, things_2C: np.ndarray, has_things_C: np.ndarray) -> np.ndarray:
    hits, misses = things_2C
    total = hits + misses + confusion_CC.sum(0) - np.diag(confusion_CC)
    return np.divide(hits, total, where=has_things_C & (total > 0), out=np.full(len(hits), np.nan))


def _named(mean: str, each: str, names: Sequence[str], ious: np.ndarray) -> dict[str, float]:
    known = {f"{each}/{name}": float(iou) for name, iou in zip(names, ious, strict=True) if not np.isnan(iou)}
    return {mean: sum(known.values()) / len(known), **known} if known else {}
