"""Pairs of image and mask as tensors, and the training stream in which every sample has an address."""

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from u2slim.data.cache import SquareCache
from u2slim.data.pairs import Pair, content_of
from u2slim.data.transforms import Augment
from u2slim.errors import UserError
from u2slim.images.read import image_size, load, read_image, read_mask
from u2slim.sizes import Size, sides

log = logging.getLogger(__name__)


def load_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """RGB (H, W, 3) and mask (H, W), both uint8 of one size."""
    image, mask = read_image(pair.image), read_truth(pair)
    if image.shape[:2] != mask.shape:
        raise UserError(f"{pair.image} is {image.shape[:2]}, its mask {pair.mask} {mask.shape} (height, width).")
    return image, mask


def read_truth(pair: Pair) -> np.ndarray:
    """A pair's mask (H, W) uint8: 0..255, or in a semantic set the classes' numbers."""
    labels = pair.data_set.labels
    return labels.read(pair.mask) if labels else read_mask(pair.mask)


def load_square(pair: Pair, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """RGB (S, S, 3) and mask (S, S), both uint8, resized without regard to aspect; masks gain no new values.

    With [height, width] as the size they are (height, width, 3) and (height, width). A much larger JPEG is decoded at
    a smaller scale, with at least four pixels for one of the square. Without a mask, all of it is 0.
    """
    height, width = sides(size)
    min_side = 4 * max(height, width)
    file = load(pair.image)
    image = read_image(file, min_side)
    if pair.mask is None:
        return resize_image(image, (height, width)), np.zeros((height, width), np.uint8)
    mask = read_truth(pair)
    at_full_scale = min(image.shape[:2]) < min_side
    if (image.shape[:2] if at_full_scale else image_size(file)) != mask.shape:
        raise UserError(f"{pair.image} has another size than its mask {pair.mask}.")
    return resize_image(image, (height, width)), resize_mask(mask, (height, width))


def resize_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """At another (height, width); OpenCV wants them the other way round."""
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """At another (height, width), without new values."""
    # Not INTER_NEAREST, which takes pixels' corners for their centres and shifts the mask by half a pixel.
    # upstream: https://github.com/opencv/opencv/issues/10146; drop when it is closed
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


class PairDataset(Dataset):
    """Pairs in their order: `{"image": (S, S, 3) uint8 RGB, "mask": (1, S, S) uint8, "name": "set/name"}`.

    `"labelled"` says whether the mask is one, and not the zeros that stand for none.

    Args:
        pairs: what to read; with a cache, their `content` must be known.
        size: the side of the squares that images and masks are resized to, or [height, width].
        augment: maps `image` and `mask` to those of a sample; None leaves the squares as they are.
        cache: keeps the squares.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: Size,
        augment: Augment | None = None,
        cache: SquareCache | None = None,
    ):
        self.pairs, self.size, self.augment, self.cache = pairs, size, augment, cache

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        pair = self.pairs[index]
        image, mask = self._square(pair)
        if self.augment:
            augmented = self.augment(image=image, mask=mask)
            image, mask = augmented["image"], augmented["mask"]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "mask": torch.from_numpy(np.ascontiguousarray(mask))[None],
            "name": f"{pair.set}/{pair.name}",
            "labelled": pair.mask is not None,
        }

    def _square(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        if not (self.cache and pair.content):
            return load_square(pair, self.size)
        square = self.cache.get(pair.content)
        if square is None:
            loaded = replace(pair, image=load(pair.image), mask=pair.mask and load(pair.mask))
            square = load_square(loaded, self.size)
            if content_of(loaded) == pair.content:  # not where a file has changed since the start
                self.cache.put(pair.content, *square)
        return square


class TrainStream(PairDataset):
    """An endless training stream: sample k (its image, flips and crop) is a function of (seed, k) alone.

    Every len(pairs) samples pass over all pairs once, in a new order.

    Args:
        seed: of the orders and of what `augment` draws.
        skip_bad: where a file cannot be read any more, take the next image of the order and say so, instead of
            ending the run.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: Size,
        augment: Augment | None,
        seed: int,
        skip_bad: bool = False,
        cache: SquareCache | None = None,
    ):
        super().__init__(pairs, size, augment, cache)
        self.seed, self.skip_bad = seed, skip_bad
        self._bad = torch.zeros(len(pairs), dtype=torch.bool).share_memory_()  # by all worker processes

    def __getitem__(self, k: int) -> dict:
        sweep, position = divmod(k, len(self.pairs))
        order = _order(self.seed, sweep, len(self.pairs))
        for index in np.roll(order, -position) if self.skip_bad else order[position : position + 1]:
            try:
                return self._sample(k, int(index))
            except UserError as error:
                if not self.skip_bad:
                    raise
                if not self._bad[index]:
                    self._bad[index] = True
                    text = "%s Training takes the next image of the order instead (%d so far)"
                    log.warning(text, error, int(self._bad.sum()))
        raise UserError(f"None of the {len(self.pairs)} training images can be read any more.")

    def _sample(self, k: int, index: int) -> dict:
        if self.augment:
            # One generator for all transforms: `set_random_seed` would give each its own copy, and every flip the
            # same coin.
            # upstream: not reported as far as known (seen with albumentations 2.0.8);
            # drop when Compose.set_random_seed gives its transforms other seeds than its own
            rng = np.random.default_rng([self.seed, 1, k])
            self.augment.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        return super().__getitem__(index)


@lru_cache(maxsize=2)
def _order(seed: int, sweep: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, sweep]).permutation(count)


class StreamSampler(Sampler[list[int]]):
    """One process's share of each global batch, from batch `start` of `batches` on.

    Global batch b holds the samples b * batch_size ... (b + 1) * batch_size - 1; each rank takes a contiguous
    share, so that the global batch does not depend on the number of processes.
    """

    def __init__(self, batches: int, batch_size: int, start: int = 0, rank: int = 0, world_size: int = 1):
        if batch_size % world_size:
            raise UserError(
                f"data.batch_size={batch_size} is the global batch and does not divide by {world_size} processes."
            )
        self.batches, self.start = batches, start
        self.batch_size, self.share, self.rank = batch_size, batch_size // world_size, rank

    def __len__(self) -> int:
        # The whole run, not what is left of it: the trainer counts the batches before `start` as done.
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.start, self.batches):
            first = batch * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))
