"""One interface from a photo to its mask, whatever runs the net."""

import hashlib
from abc import ABC, abstractmethod

import cv2
import numpy as np
import torch
from loky import cpu_count
from torch import nn

from src.errors import UserError
from src.masks import enlarge, minmax
from src.preprocess import Preprocess


class Segmenter(ABC):
    """Calls a net on photos of any size; `streams` threads may call it at once.

    Args:
        size: (height, width) that the net takes.
        stretch: stretch each mask to 0..1 at the net's resolution, as U2-Net's own test script does.
    """

    runtime: str

    def __init__(self, size: tuple[int, int], stretch: bool = True):
        self.size, self.stretch = size, stretch

    def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
        """The soft mask (H, W) float32 in 0..1 of an RGB uint8 photo, at the photo's own size."""
        small = self.small_mask(image_HW3)
        return enlarge(minmax(small) if self.stretch else small, image_HW3.shape[:2])

    def small_mask(self, image_HW3: np.ndarray) -> np.ndarray:
        """The net's own mask (h, w) float32 of a photo, at the net's resolution and not stretched.

        Raises:
            UserError: the net gives NaN or infinite values for this photo.
        """
        # In float and without antialiasing, as U2-Net's own test script resizes.
        small = cv2.resize(image_HW3.astype(np.float32), self.size[::-1], interpolation=cv2.INTER_LINEAR)
        mask = self.probability(small)
        if not np.isfinite(mask).all():
            raise UserError(f"the net gives NaN or infinite values on {self.runtime}; no mask was made.")
        return mask

    @abstractmethod
    def fingerprint(self) -> str:
        """The same for segmenters that give the same masks, up to rounding."""

    @abstractmethod
    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        """The net's own mask (H, W) float32, not stretched, of an RGB image, 0..255, of `self.size`."""


class TorchSegmenter(Segmenter):
    """Runs a net that returns logits `[fused, ...]` with PyTorch, by default on a GPU where there is one."""

    runtime = "torch"

    def __init__(
        self,
        net: nn.Module,
        size: tuple[int, int],
        stretch: bool = True,
        device: str | None = None,
        streams: int = 1,
    ):
        super().__init__(size, stretch)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.net = nn.Sequential(Preprocess(), net).to(self.device).eval()
        if streams > 1:
            torch.set_num_threads(threads_each(streams))

    def fingerprint(self) -> str:
        total = hashlib.sha256(f"{self.net} {self.size} {self.device.type}".encode())
        for tensor in self.net.state_dict().values():
            total.update(tensor.cpu().contiguous().numpy())
        return total.hexdigest()

    @torch.inference_mode()
    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(image_HW3).to(self.device).permute(2, 0, 1)[None]
        return self.net(image)[0][0, 0].sigmoid().cpu().numpy()


def threads_each(streams: int) -> int:
    """The threads of one inference where `streams` of them share the cores."""
    return max(1, cpu_count() // streams)
