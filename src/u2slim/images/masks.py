"""From a net's probability to the mask that is saved, shown and scored; what a mask tells of its subject."""

import cv2
import numpy as np

VISIBLE = 26  # of 255: a tenth; fainter pixels count for no subject's box


NOTHING = 0.3  # a net whose mask is nowhere so high sees no subject (docs/lab/cut-measured.md)


def stretched(mask: np.ndarray) -> np.ndarray:
    """A net's mask stretched to 0..1; all 0 where the net sees no subject, whose rounding would be stretched else."""
    return minmax(mask) if mask.max() >= NOTHING else np.zeros_like(mask)


def minmax(mask: np.ndarray) -> np.ndarray:
    """Stretch a mask to 0..1, as U2-Net's own test script does; a constant mask stays as it is."""
    low, high = mask.min(), mask.max()
    return (mask - low) / (high - low) if high - low > 1e-6 else mask


def class_shares(logits_CHW: np.ndarray) -> np.ndarray:
    """Each pixel's probabilities of the classes, by softmax."""
    shares: np.ndarray = np.exp(logits_CHW - logits_CHW.max(0))
    shares /= shares.sum(0)
    return shares


def enlarge(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A net's mask (h, w) float32 at its photo's (height, width)."""
    large = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return large.clip(0, 1, out=large)


def to_8bit(mask: np.ndarray) -> np.ndarray:
    """A mask in 0..1 in 256 levels, uint8."""
    return cv2.convertScaleAbs(mask, alpha=255)  # rounds, and needs no further copy in float


def largest_part(mask_HW: np.ndarray) -> np.ndarray:
    """Of an 8-bit mask's connected parts the one with most pixels of at least a half; unchanged if there is no such.

    Parts are of pixels above 0, and pixels that meet at a corner are connected.
    """
    count, parts_HW = cv2.connectedComponents((mask_HW > 0).astype(np.uint8), connectivity=8)
    sizes = np.bincount(parts_HW[mask_HW >= 128], minlength=count)
    return np.where(parts_HW == sizes.argmax(), mask_HW, 0).astype(np.uint8) if sizes.any() else mask_HW


def hard(mask_HW: np.ndarray, threshold: float) -> np.ndarray:
    """An 8-bit mask of 0 and 255: the pixels of at least `threshold`, which is in 0..1."""
    return np.where(mask_HW >= threshold * 255, 255, 0).astype(np.uint8)


def subject_box(mask_HW: np.ndarray) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) around all pixels of an 8-bit mask that show; the last two are just outside."""
    shown = mask_HW >= VISIBLE
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
