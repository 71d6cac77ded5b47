"""What a confusion matrix says: which pixels of which class were taken for which."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from u2slim.files import write_bytes_whole


def class_ious(confusion_CC: np.ndarray) -> np.ndarray:
    """The intersection over union of each class; NaN where it is neither there nor predicted.

    Args:
        confusion_CC: pixels by true class (row) and predicted class (column).
    """
    hits = np.diag(confusion_CC).astype(np.float64)
    union = confusion_CC.sum(0) + confusion_CC.sum(1) - hits
    return np.divide(hits, union, where=union > 0, out=np.full(len(hits), np.nan))


def merged(confusion_CC: np.ndarray, member_GC: np.ndarray) -> np.ndarray:
    """The same matrix of groups of classes; `member_GC` says which classes are of which group."""
    return member_GC.astype(np.int64) @ confusion_CC @ member_GC.T


def scores(confusion_CC: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """`mIoU` over the classes that occur, `accuracy` of pixels, and `IoU/NAME` of each class that occurs."""
    ious, total = class_ious(confusion_CC), confusion_CC.sum()
    occurs = ~np.isnan(ious)
    means = {
        "mIoU": float(ious[occurs].mean()) if occurs.any() else 0.0,
        "accuracy": float(np.trace(confusion_CC) / total) if total else 0.0,
    }
    return means | {f"IoU/{name}": float(iou) for name, iou in zip(names, ious, strict=True) if not np.isnan(iou)}


def draw_confusion(path: Path, confusion_CC: np.ndarray, names: Sequence[str], title: str = "") -> None:
    """Write `confusion_png` to a file, whole or not at all."""
    write_bytes_whole(path, confusion_png(confusion_CC, names, title))


def confusion_png(confusion_CC: np.ndarray, names: Sequence[str], title: str = "") -> bytes:
    """A picture of the matrix, each row as shares of its true class."""
    rows = confusion_CC.sum(1, keepdims=True)
    shares = np.divide(confusion_CC, rows, where=rows > 0, out=np.zeros(confusion_CC.shape))
    side = 2.5 + 0.42 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [f"{name} ({iou:.2f})" for name, iou in zip(names, class_ious(confusion_CC), strict=True)]
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axis.set_yticks(range(len(names)), labels, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true (IoU)")
    axis.set_title(title, fontsize=9)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            colour = "white" if share > 0.5 else "black"
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=colour)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
