"""The net's masks of a clip's frames, one after the other: not twice where nothing moved, and steadied if asked for."""

from typing import Any

import cv2
import numpy as np

from u2slim.runtime import Runner

WINDOW = 7  # pixels of the net's input, over which noise averages out, and the step of an edge does not
STILL = 3.0  # of 255: where the mean of a window changes by less, nothing has moved
SEARCHED = 12  # pixels of a side from which there is an optical flow


class Steady:
    """Averages each mask with those before it, which are moved along with the photo.

    A frame's mask is `new + keep * (old - new)`. There `old` is the steadied mask of the frame before, warped by the
    optical flow between the two photos. Where the warped photo is not the new one, as at what appears, in a cut or
    where the flow is wrong, `keep` falls to 0. So a mask does not smear behind its subject (docs/guides/video.md).

    Args:
        keep: the old mask's weight where the photos agree.
        tolerance: the difference between the photos, of 255, at which the weight is a third of that.
        window: over which the difference is averaged, in pixels of the net's input.
    """

    def __init__(self, keep: float = 0.7, tolerance: float = 20, window: int = 9):
        self.keep, self.tolerance, self.window = keep, tolerance, window
        # Dense inverse search (Kroeger et al. 2016); its quickest preset takes a small part of a net's time.
        search: Any = cv2  # its type does not tell of it
        self._search = search.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def __call__(self, photo_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
        """The steadied mask of the next frame, both float32 at the net's resolution, the photo in 0..255."""
        gray_HW = cv2.cvtColor(np.rint(photo_HW3).clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        steadied = mask_HW
        if self._before is not None:
            photo, gray, mask = self._before
            whence = self._whence(gray_HW, gray)
            photo, mask = _sampled(photo, whence), _sampled(mask, whence)
            apart = cv2.blur(np.abs(photo_HW3 - photo).max(2), (self.window, self.window))
            keep = self.keep * np.exp(-np.square(apart / self.tolerance))
            steadied = (mask_HW + keep * (mask - mask_HW)).astype(np.float32)
        self._before = photo_HW3, gray_HW, steadied
        return steadied

    def _whence(self, gray_HW: np.ndarray, before_HW: np.ndarray) -> np.ndarray:
        """Where each pixel was in the frame before, (H, W, 2) as x and y."""
        height, width = gray_HW.shape
        flow = np.zeros((height, width, 2), np.float32)
        if min(height, width) >= SEARCHED:
            flow = self._search.calc(gray_HW, before_HW, flow)
        flow[..., 0] += np.arange(width, dtype=np.float32)
        flow[..., 1] += np.arange(height, dtype=np.float32)[:, None]
        return flow


def _sampled(pixels: np.ndarray, whence_HW2: np.ndarray) -> np.ndarray:
    x, y = whence_HW2[..., 0], whence_HW2[..., 1]
    return cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


class FrameMasks:
    """From each of a clip's frames in turn to the net's small mask, as `cut` takes it for `see`.

    Args:
        runner: of the net.
        steady: steadies the masks; None: each is as the net makes it.
    """

    def __init__(self, runner: Runner, steady: Steady | None = None):
        self.runner, self.steady = runner, steady
        self.frames = self.reused = 0  # so many came, and for so many of them the last mask was used again
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # what the net saw, and the mask that came of it

    def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
        photo = self.runner.resized(image_HW3)
        self.frames += 1
        # Compared is with what the net saw last, not with the frame before, so that slow changes add up.
        if self._last is not None and not moved(self._last[0], photo):
            self.reused += 1
            return self._last[1]
        mask = self.runner.mask_of_resized(photo)
        self._last = photo, mask if self.steady is None else self.steady(photo, mask)
        return self._last[1]


def moved(one_HW3: np.ndarray, other_HW3: np.ndarray) -> bool:
    """Whether two frames at the net's resolution, float32 in 0..255, differ by more than noise."""
    return bool(np.abs(cv2.blur(other_HW3 - one_HW3, (WINDOW, WINDOW))).max() >= STILL)
