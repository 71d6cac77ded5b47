"""Training, validation and test pairs for saliency, from whichever published sets are on disk."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from src.data import sample
from src.data.catalog import CATALOG
from src.data.dataset import PairDataset, StreamSampler, TrainStream
from src.data.pairs import Pair, expected_places, find_pairs
from src.data.transforms import resize, u2net
from src.errors import UserError

log = logging.getLogger(__name__)


class SaliencyDataModule(pl.LightningDataModule):
    """Merges the `train` sets, draws the validation images, and addresses every training sample.

    Args:
        root: the folder that holds the data sets.
        train, val: names in the catalog. Sets that are not on disk are named in the log; if no `val` set is, a
            seeded part of the training pairs is held out.
        test: the sets that `eval.py` scores, each with how many of its images (the first), or None for all.
        batch_size: global, divided by the number of processes.
        val_count: how many validation images are drawn.
        size: side of the square that validation images are resized to.
        augment: the training transform, U2-Net's recipe by default.
        limit_train: use only so many training pairs (for tests of a set-up).
        generate: make the sample set under `root` first.
    """

    def __init__(
        self,
        root: str,
        train: Sequence[str] = (),
        val: Sequence[str] = (),
        test: Mapping[str, int | None] | None = None,
        batch_size: int = 16,
        val_batch_size: int = 8,
        val_count: int = 1000,
        size: int = 320,
        augment: A.Compose | None = None,
        num_workers: int = 2,
        seed: int = 0,
        limit_train: int | None = None,
        generate: bool = False,
    ):
        super().__init__()
        self.root = Path(root).expanduser()
        self.train_sets, self.val_sets, self.test_sets = list(train), list(val), dict(test or {})
        self.batch_size, self.val_batch_size, self.val_count = batch_size, val_batch_size, val_count
        self.size, self.augment = size, augment or u2net()
        self.num_workers, self.seed, self.limit_train, self.generate = num_workers, seed, limit_train, generate
        self.train_pairs: list[Pair] = []
        self.val_pairs: list[Pair] = []

    def prepare_data(self) -> None:
        if self.generate:
            sample.write_sample_set(self.root)

    def setup(self, stage: str | None = None) -> None:
        if self.train_pairs:
            return
        if not self.train_sets:
            raise UserError("This data config names no training sets; train with data=duts or data=sample.")
        train = self._found(self.train_sets)
        if not train:
            raise UserError(self._nothing_found(self.train_sets))
        val = self._found(self.val_sets)
        if val:
            val = self._draw(val, self.val_count)
        else:
            val = self._draw(train, min(self.val_count, max(1, len(train) // 10)))
            held_out = {(pair.set, pair.name) for pair in val}
            train = [pair for pair in train if (pair.set, pair.name) not in held_out]
            log.info("validation: %d training images held out (seed %d)", len(val), self.seed)
        self.train_pairs, self.val_pairs = train[: self.limit_train], val
        log.info("training on %d images, validating on %d", len(self.train_pairs), len(val))

    def test_pairs(self) -> dict[str, list[Pair]]:
        """The pairs that `eval.py` scores, by set.

        Raises:
            UserError: no test sets are configured, or one of them is not on disk.
        """
        if not self.test_sets:
            raise UserError("This data config is for training; score another, e.g. data=ecssd or data=duts_te.")
        self.prepare_data()
        found = {name: self._found([name]) for name in self.test_sets}
        if missing := [name for name, pairs in found.items() if not pairs]:
            raise UserError(self._nothing_found(missing))
        for name, count in self.test_sets.items():
            if count is not None and (type(count) is not int or count < 1):
                raise UserError(f"data.test.{name}={count}: give a whole number of images, or null for all.")
        return {name: pairs[: self.test_sets[name]] for name, pairs in found.items()}

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        steps = trainer.max_steps if trainer.max_steps > 0 else 10**9
        sampler = StreamSampler(
            batches=steps * trainer.accumulate_grad_batches,
            batch_size=self.batch_size,
            start=trainer.global_step * trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        stream = TrainStream(self.train_pairs, self.augment, self.seed)
        return self._loader(stream, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        share = range(self.trainer.global_rank, len(self.val_pairs), self.trainer.world_size)
        pairs = [self.val_pairs[i] for i in share]
        return self._loader(PairDataset(pairs, resize(self.size)), batch_size=self.val_batch_size)

    def _loader(self, dataset: PairDataset, **options) -> DataLoader:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            worker_init_fn=_one_thread,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options,
        )

    def _found(self, names: Sequence[str]) -> list[Pair]:
        pairs = []
        for name in names:
            found = find_pairs(name, self.root)
            data_set = CATALOG[name]
            if found is None:
                log.warning("%s is not under %s: going on without it", data_set.title, self.root)
                continue
            if data_set.count and len(found) != data_set.count:
                log.warning("%s: %d images found, %d published", data_set.title, len(found), data_set.count)
            pairs += found
        return pairs

    def _draw(self, pairs: list[Pair], count: int) -> list[Pair]:
        if len(pairs) < count:
            log.warning("only %d validation images are there, %d were asked for", len(pairs), count)
        chosen = np.random.default_rng([self.seed, 2]).permutation(len(pairs))[:count]
        return [pairs[i] for i in sorted(chosen)]

    def _nothing_found(self, names: Sequence[str]) -> str:
        places = "; ".join(expected_places(name, self.root) for name in names)
        return f"No data under data.root={self.root}. Expected (folders in any case): {places}."


def _one_thread(worker: int) -> None:
    # Workers are processes already; OpenCV's own threads would only make them contend.
    cv2.setNumThreads(0)
