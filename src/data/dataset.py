"""Pairs of image and mask as tensors, and the training stream in which every sample has an address."""

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

import albumentations as A
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from src.data.pairs import Pair
from src.errors import UserError
from src.images import read_image, read_mask


def load_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """RGB (H, W, 3) and mask (H, W), both uint8 of one size."""
    image, mask = read_image(pair.image), read_mask(pair.mask)
    if image.shape[:2] != mask.shape:
        raise UserError(f"{pair.image} is {image.shape[:2]}, its mask {pair.mask} {mask.shape} (height, width).")
    return image, mask


class PairDataset(Dataset):
    """Validation pairs in their order: `{"image": (3, S, S) uint8, "mask": (1, S, S) float 0..1, "name"}`."""

    def __init__(self, pairs: Sequence[Pair], transform: A.Compose):
        self.pairs = pairs
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        pair = self.pairs[index]
        image, mask = load_pair(pair)
        out = self.transform(image=image, mask=mask)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(out["image"].transpose(2, 0, 1))),
            "mask": torch.from_numpy(np.ascontiguousarray(out["mask"]))[None].float() / 255,
            "name": f"{pair.set}/{pair.name}",
        }


class TrainStream(PairDataset):
    """An endless training stream: sample k (its image, flips and crop) is a function of (seed, k) alone.

    Every len(pairs) samples pass over all pairs once, in a new order.
    """

    def __init__(self, pairs: Sequence[Pair], transform: A.Compose, seed: int):
        super().__init__(pairs, transform)
        self.seed = seed

    def __getitem__(self, k: int) -> dict:
        sweep, position = divmod(k, len(self.pairs))
        # One generator for all transforms: `set_random_seed` would give each its own copy, and every flip the
        # same coin.
        rng = np.random.default_rng([self.seed, 1, k])
        self.transform.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        return super().__getitem__(int(_order(self.seed, sweep, len(self.pairs))[position]))


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
