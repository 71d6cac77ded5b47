"""Edges at the photo's own resolution: what a net's enlarged mask does not have."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from u2slim.errors import missing_extra

# From an RGB photo (H, W, 3) uint8 and its mask (H, W): a better mask; or the subject's own colours.
Refine = Callable[[np.ndarray, np.ndarray], np.ndarray]
Foreground = Callable[[np.ndarray, np.ndarray], np.ndarray]

EACH_SIDE = 256  # the shorter side at which the guided filter's coefficients are computed


@dataclass(frozen=True)
class GuidedFilter:
    """The fast guided filter of He and Sun (2015), guided by the photo's colours: moves a mask's edges to the photo's.

    Args:
        radius: of the window, as a part of the photo's longer side.
        eps: how much contrast (variance of colours in 0..1) an edge needs to be followed.
    """

    radius: float = 0.01
    eps: float = 1e-3

    def __call__(self, image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
        """The refined mask (H, W) float32 of an RGB uint8 photo and its mask in 0..1."""
        height, width = mask_HW.shape
        shrink = max(1.0, min(height, width) / EACH_SIDE)
        size = max(1, round(width / shrink)), max(1, round(height / shrink))
        guide = cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        mask = cv2.resize(mask_HW, size, interpolation=cv2.INTER_AREA)
        reach = 2 * max(1, round(self.radius * max(size))) + 1

        def mean(x: np.ndarray) -> np.ndarray:
            return cv2.boxFilter(x, -1, (reach, reach), borderType=cv2.BORDER_REFLECT)

        average, level = mean(guide), mean(mask)
        outer = (guide[..., :, None] * guide[..., None, :]).reshape(*mask.shape, 9)
        variance = np.dstack([mean(outer[..., :4]), mean(outer[..., 4:8]), mean(outer[..., 8])])
        variance = variance.reshape(*mask.shape, 3, 3) - average[..., :, None] * average[..., None, :]
        covariance = mean(guide * mask[..., None]) - average * level[..., None]
        slope = np.linalg.solve(variance + self.eps * np.eye(3, dtype=np.float32), covariance[..., None])[..., 0]
        offset = level - (slope * average).sum(-1)
        slope, offset = (cv2.resize(mean(x), (width, height), interpolation=cv2.INTER_LINEAR) for x in (slope, offset))
        refined: np.ndarray = offset
        for channel in range(3):
            refined += slope[..., channel] * (image_HW3[..., channel] * np.float32(1 / 255))
        return refined.clip(0, 1)


@dataclass(frozen=True)
class ForegroundML:
    """The subject's own colours without the background's at soft edges: pymatting's multi-level estimate."""

    def __post_init__(self) -> None:
        try:
            import pymatting  # noqa: F401
        except ImportError as error:
            raise missing_extra("--colours ml", "pymatting", "matting") from error

    def __call__(self, image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
        """Colours (H, W, 3) uint8 of a photo and its mask, both uint8; where the mask is full, the photo's."""
        # upstream: https://github.com/pymatting/pymatting/issues/44; drop when it is closed
        if min(mask_HW.shape) < 2:  # which pymatting divides by zero for
            return image_HW3
        from pymatting import estimate_foreground_ml

        colours = estimate_foreground_ml(image_HW3 / np.float32(255), mask_HW / np.float32(255))
        colours = np.rint(colours * 255).clip(0, 255).astype(np.uint8)
        return np.where(mask_HW[..., None] == 255, image_HW3, colours)
