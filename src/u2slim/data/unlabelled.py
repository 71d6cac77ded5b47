"""Photos without masks: what a net learns from by its own activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from u2slim.images.photos import find_photos
from u2slim.images.read import Source, read_image
from u2slim.sizes import Size, sides

HELD_OUT = 200  # so many of a folder's photos are kept from fits, or half of them where they are few


def held_out(photos: int) -> np.ndarray:
    """Which of so many photos no fit looks at, so that nets can be chosen by them (docs/lab/selection.md)."""
    return np.random.default_rng(0).permutation(photos)[photos - min(HELD_OUT, photos // 2) :]


def drawn(photos: int, count: int, seed: int) -> np.ndarray:
    """Which `count` of so many photos a fit looks at; those held out come last, whatever the seed."""
    order = np.random.default_rng(seed).permutation(photos)
    is_held = np.isin(order, held_out(photos))
    return np.concatenate([order[~is_held], order[is_held]])[:count]


@dataclass(frozen=True)
class Photos:
    """Where photos are, and the side of the square, or [height, width], that they are used at."""

    sources: Sequence[str | Source]
    size: Size

    @classmethod
    def below(cls, folder: str | Path, size: Size, setting: str = "init.folder") -> "Photos":
        """All photos below a folder, which errors call `setting`."""
        return cls([photo for photo, _ in find_photos(folder, setting=setting)], size)

    def __len__(self) -> int:
        return len(self.sources)

    def squares(self, count: int, seed: int) -> Tensor:
        """`count` of them, or all if there are fewer: RGB (N, 3, S, S) uint8, a function of the seed.

        Photos that are held out are taken only where the others are too few.
        """
        height, width = sides(self.size)
        chosen = drawn(len(self.sources), count, seed)
        images = (read_image(self.sources[index], min_side=4 * max(height, width)) for index in chosen)
        squares = [cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR) for image in images]
        return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
