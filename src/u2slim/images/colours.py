"""Classes in their colours."""

from collections.abc import Sequence

import numpy as np


def coloured(classes_HW: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """RGB (H, W, 3) uint8 of class numbers (H, W) uint8; numbers without a class are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[classes_HW]


def overlay(photo_HW3: np.ndarray, classes_HW: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """The colours laid over an RGB photo of the same size, both by half; the photo itself where there is no class."""
    mixed = (photo_HW3.astype(np.uint16) + coloured(classes_HW, palette) + 1) // 2
    return np.where((classes_HW < len(palette))[..., None], mixed, photo_HW3).astype(np.uint8)
