"""From a net's probability to the mask that is saved, shown and scored."""

import cv2
import numpy as np


def minmax(mask: np.ndarray) -> np.ndarray:
    """Stretch a mask to 0..1, as U2-Net's own test script does; a constant mask stays as it is."""
    low, high = mask.min(), mask.max()
    return (mask - low) / (high - low) if high - low > 1e-6 else mask


def enlarge(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A net's mask (h, w) float32 at its photo's (height, width)."""
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)


def to_8bit(mask: np.ndarray) -> np.ndarray:
    """A mask in 0..1 in 256 levels, uint8."""
    return np.rint(mask * 255).astype(np.uint8)
