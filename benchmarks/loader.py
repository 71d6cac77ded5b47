"""How fast training samples are made, on one core: python -m benchmarks.loader --root DIR.

Three pipelines make the same batches of the same DUTS-TR files, in turn, each in this process with one thread:
U2-Net's published recipe written plainly with skimage (decode, resize to 320 in float64, flip, crop 288, divide by the
maximum, ImageNet mean and deviation); ours decoding every file; ours from its cache.

With --flat it instead draws samples with four workers and prints how their memory grows.
"""

import argparse
import math
import multiprocessing
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage import io, transform
from torch.utils.data import DataLoader, Dataset

from u2slim.data.cache import SquareCache
from u2slim.data.catalog import get_data_set
from u2slim.data.dataset import StreamSampler, TrainStream
from u2slim.data.pairs import Pair, content_of, list_pairs
from u2slim.data.transforms import u2net

SIZE, CROP, BATCH = 320, 288, 12


class Published(Dataset):
    """The published recipe, an array operation a line."""

    def __init__(self, pairs: Sequence[Pair]):
        self.pairs, self.rng = pairs, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        image, label = io.imread(self.pairs[index].image), io.imread(self.pairs[index].mask)
        image = transform.resize(image, (SIZE, SIZE), mode="constant")
        label = transform.resize(label[..., None], (SIZE, SIZE), mode="constant", order=0, preserve_range=True)
        if self.rng.random() >= 0.5:
            image, label = image[::-1], label[::-1]
        top, left = self.rng.integers(0, SIZE - CROP, 2)
        image = image[top : top + CROP, left : left + CROP]
        label = label[top : top + CROP, left : left + CROP]
        image, label = image / image.max(), label / max(label.max(), 1e-6)
        normal = np.zeros((CROP, CROP, 3))
        for channel, (mean, deviation) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
            normal[:, :, channel] = (image[:, :, channel] - mean) / deviation
        return {
            "image": torch.from_numpy(normal.transpose(2, 0, 1)),
            "mask": torch.from_numpy(np.ascontiguousarray(label.transpose(2, 0, 1))),
        }


def seconds(loader: DataLoader) -> float:
    start = time.perf_counter()
    for batch in loader:
        if batch["image"].dtype == torch.float64:  # as the published training loop does at once
            batch["image"].float(), batch["mask"].float()
    return time.perf_counter() - start


def speed(pairs: Sequence[Pair], rounds: int, folder: str) -> None:
    batches = len(pairs) // BATCH

    def ours(cache: SquareCache | None) -> DataLoader:
        stream = TrainStream(pairs, SIZE, u2net(SIZE), seed=0, cache=cache)
        return DataLoader(stream, batch_sampler=StreamSampler(batches, BATCH))

    cache = SquareCache(folder, SIZE, gigabytes=len(pairs) * 1e-3 + 0.1)
    loaders = {"published": DataLoader(Published(pairs), batch_size=BATCH), "cold": ours(None), "cached": ours(cache)}
    seconds(loaders["cached"])  # fills it
    best = dict.fromkeys(loaders, math.inf)
    for number in range(rounds):
        taken = {name: seconds(loader) for name, loader in loaders.items()}
        best = {name: min(before, taken[name]) for name, before in best.items()}
        ratios = ", ".join(f"{name} {taken['published'] / taken[name]:.1f}" for name in ("cold", "cached"))
        print(f"round {number + 1}: published 1, ours {ratios}")
    # Whatever else the machine does only adds to a time: the best rounds are the nearest to what the code costs.
    print(
        f"{len(pairs)} pairs, one core, Python {platform.python_version()}, best of {rounds} rounds each: ours makes "
        f"{best['published'] / best['cold']:.1f} times as many images a second as the published recipe, "
        f"{best['published'] / best['cached']:.1f} times from the cache"
    )


def anonymous_mb(process: int) -> float:
    """A process's share of memory that is no file's (Linux); a mapped file, as the cache, is given back on demand."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) / 1e3


def flat(pairs: Sequence[Pair], samples: int, folder: str, cached: bool) -> None:
    cache = SquareCache(folder, SIZE, gigabytes=8) if cached else None
    stream = TrainStream(pairs, SIZE, u2net(SIZE), seed=0, cache=cache)
    batches = samples // BATCH
    loader = DataLoader(
        stream,
        batch_sampler=StreamSampler(batches, BATCH),
        num_workers=4,
        worker_init_fn=lambda _: cv2.setNumThreads(0),
    )
    for number, _ in enumerate(loader, 1):
        if number % max(1, batches // 10) == 0:
            workers = (process.pid for process in multiprocessing.active_children())
            used = sum(map(anonymous_mb, (os.getpid(), *workers)))
            print(f"{number * BATCH} samples: {used:.0f} MB in all five processes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds DUTS-TR as published, in folders, not shards")
    parser.add_argument("--set", default="duts_tr", choices=("duts_tr", "duts_te"))
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--flat", type=int, default=0, metavar="SAMPLES")
    parser.add_argument("--cached", action="store_true", help="with --flat: through a cache")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    listing = list_pairs(get_data_set(options.set), options.root)
    if listing is None or not isinstance(listing.pairs[0].image, Path):
        raise SystemExit(f"No folders of {options.set} under {options.root}.")
    count = len(listing.pairs) if options.flat else options.pairs
    pairs = listing.pairs[:: max(1, len(listing.pairs) // count)][:count]
    pairs = [replace(pair, content=content_of(pair)) for pair in pairs]
    with tempfile.TemporaryDirectory() as folder:
        if options.flat:
            flat(pairs, options.flat, folder, options.cached)
        else:
            speed(pairs, options.rounds, folder)


if __name__ == "__main__":
    main()
