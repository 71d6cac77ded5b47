"""One interface from a photo to its mask, whatever runs the net."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from statistics import median
from time import perf_counter

import cv2
import numpy as np

from u2slim.errors import UserError
from u2slim.images.masks import enlarge, stretched
from u2slim.images.preprocess import resized
from u2slim.processes import cpu_share

# Where any number may go in. More are no faster on a CPU, and each may take half a gigabyte (docs/lab/export.md).
PHOTOS_AT_ONCE = 8


class Runner(ABC):
    """Calls a net on photos of any size; `streams` threads may call it at once.

    Args:
        size: (height, width) that the net takes.
        stretch: stretch each mask to 0..1 at the net's resolution, as U2-Net's own test script does, unless the net
            sees no subject.
        labels: the `names` and `palette` of what a semantic net tells apart; it makes class maps instead of masks.
    """

    runtime: str
    together = 1  # so many photos go through the net in one call, where several are given

    def __init__(self, size: tuple[int, int], stretch: bool = True, labels: Mapping[str, Sequence] | None = None):
        self.size, self.stretch, self.labels = size, stretch, labels

    def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
        """The soft mask (H, W) float32 in 0..1 of an RGB uint8 photo, at the photo's own size."""
        return self.enlarged(self.small_mask(image_HW3), image_HW3.shape[:2])

    def enlarged(self, small_HW: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """The net's own mask, stretched if asked for, at the photo's (height, width)."""
        return enlarge(stretched(small_HW) if self.stretch else small_HW, shape)

    def small_mask(self, image_HW3: np.ndarray) -> np.ndarray:
        """The net's own mask (h, w) float32 of a photo, at the net's resolution and not stretched.

        Raises:
            UserError: the net gives NaN or infinite values for this photo.
        """
        return self.mask_of_resized(self.resized(image_HW3))

    def mask_of_resized(self, image_HW3: np.ndarray) -> np.ndarray:
        """The same of an image that `resized` made."""
        return self._finite(self.probability(image_HW3))

    def small_masks(self, images: Iterable[np.ndarray]) -> list[np.ndarray]:
        """The net's own masks of several photos, in one call where the file has a batch axis.

        Raises:
            UserError: the net gives NaN or infinite values for one of them.
        """
        return [self._finite(mask) for mask in self.infer_all(map(self.resized, images))]

    def class_map(self, image_HW3: np.ndarray) -> np.ndarray:
        """The most likely class of each pixel (H, W) uint8 of an RGB uint8 photo, at the photo's own size.

        Raises:
            UserError: the net gives NaN or infinite values for this photo.
        """
        logits = self._finite(self.logits(self.resized(image_HW3)))
        # One class after the other, since all of a large photo's would not fit into memory.
        best = np.full(image_HW3.shape[:2], -np.inf, np.float32)
        classes = np.zeros(image_HW3.shape[:2], np.uint8)
        for number, small in enumerate(logits):
            large = cv2.resize(small, image_HW3.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            classes[large > best] = number
            np.maximum(best, large, out=best)
        return classes

    def resized(self, image_HW3: np.ndarray) -> np.ndarray:
        """At the net's size, in float and without antialiasing, as U2-Net's own test script resizes."""
        return resized(image_HW3, self.size)

    def _finite(self, output: np.ndarray) -> np.ndarray:
        if not np.isfinite(output).all():
            raise UserError(f"the net gives NaN or infinite values on {self.runtime}; no mask was made.")
        return output

    @abstractmethod
    def fingerprint(self) -> str:
        """The same for runners that give the same masks, up to rounding."""

    @abstractmethod
    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        """The net's own mask (H, W) float32, not stretched, of an RGB image, 0..255, of `self.size`."""

    def logits(self, image_HW3: np.ndarray) -> np.ndarray:
        """A semantic net's main output (classes, H, W) float32 for such an image."""
        raise NotImplementedError

    def infer(self, image_HW3: np.ndarray) -> np.ndarray:
        """Of these two what the net makes."""
        return self.logits(image_HW3) if self.labels else self.probability(image_HW3)

    def infer_all(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same of several such images, `together` of them at a time."""
        left = iter(images)
        while group := list(islice(left, self.together)):
            yield from self.infer_group(group)

    def infer_group(self, images: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
        """The same of 1 to `together` such images."""
        return map(self.infer, images)


def latency(runner: Runner, images: Sequence[np.ndarray], repeats: int) -> float:
    """The median milliseconds of one of these images, of the runner's size, where all go in together."""
    seconds = []
    for _ in range(repeats):
        start = perf_counter()
        list(runner.infer_all(images))
        seconds.append(perf_counter() - start)
    return 1000 * median(seconds) / len(images)


def threads_each(streams: int, threads: int | None = None) -> int | None:
    """The threads of one inference, where `streams` of them share `threads` or else the cores.

    None: one inference may take what the runtime takes by itself, which is a thread a core.
    """
    if streams == 1:
        return threads or cpu_share()
    from loky import cpu_count  # a tenth of a second, which one photo does not need

    return max(1, (threads or cpu_count()) // streams)
