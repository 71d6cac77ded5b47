"""Training, validation and test pairs, from whichever published sets are on disk, and from one's own."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from u2slim.data import manifest
from u2slim.data.cache import SquareCache
from u2slim.data.catalog import get_data_set
from u2slim.data.check import Record, examine_all
from u2slim.data.data_set import DataSet
from u2slim.data.dataset import PairDataset, StreamSampler, TrainStream
from u2slim.data.own_sets import short_sets
from u2slim.data.pairs import (
    Listing,
    Pair,
    Problem,
    expected_places,
    find_pairs,
    known_shards,
    list_pairs,
    refuse,
)
from u2slim.data.transforms import Augment
from u2slim.data.unlabelled import Photos
from u2slim.errors import UserError
from u2slim.files import user_path
from u2slim.sizes import DEFAULT_SIDE, Size, sides

# Settings of data, by their dotted names, that only training reads.
OF_TRAINING = tuple(
    f"data.{name}"
    for name in (
        *("train", "val", "unlabelled", "batch_size", "val_batch_size", "val_count", "manifest", "repeats_apart"),
        *("val_images", "val_masks", "val_share", "val_list"),
        *("on_bad", "size", "augment", "cache", "cache_gb", "num_workers", "limit_train"),
    )
)

FEW = 10  # validation images

log = logging.getLogger(__name__)


class PairsDataModule(pl.LightningDataModule):
    """Merges the `train` sets, chooses the validation images, and addresses every training sample.

    Args:
        root: the folder (or address) that holds the data sets.
        train, val: names of published sets, or of `sets`. Published ones that are not on disk are named in the log;
            if no `val` set is, a seeded part of the training pairs is held out.
        test: the sets that `eval.py` scores, each with how many of its images (the first), or None for all; or just
            their names.
        sets: of one's own, by name, as `own_sets` reads them.
        shards: for sets that lie in tar shards elsewhere, their paths, addresses or globs.
        batch_size: global, divided by the number of processes.
        val_count: how many validation images are drawn.
        on_bad: what to do with pairs that cannot be used: `stop` names them all, `skip` leaves them out and says so.
        size: side of the square that images are resized to, or [height, width]; None: 320.
        augment: the training transform of what comes of that; None leaves it as it is.
        cache: folder of a cache of resized pairs, at most `cache_gb` large; None decodes every sample anew.
        limit_train: use only so many training pairs (for tests of a set-up).
        generate: make the sample set under `root` first.
        images, masks, endings, subject: of the set `own`, as `own_sets` reads them; with them none need be declared.
        val_images, val_masks: the folders of `own_val`, which then validates.
        val_share: the part of the training images that validates, at most `val_count`, where no set is named in `val`.
        val_list: a text file with the names of the images that validate, one a line, instead.
        labels, ignore, others: the classes of one's own sets that do not declare their own, as `own_labels` reads them.
    """

    def __init__(
        self,
        root: str,
        train: str | Sequence[str] = (),
        val: str | Sequence[str] = (),
        test: Mapping[str, int | None] | str | Sequence[str] | None = None,
        shards: Mapping[str, str | Sequence[str]] | None = None,
        batch_size: int = 16,
        val_batch_size: int = 8,
        val_count: int = 1000,
        on_bad: str = "stop",
        size: Size | None = None,
        augment: Augment | None = None,
        cache: str | None = None,
        cache_gb: float = 8,
        num_workers: int = 2,
        seed: int = 0,
        limit_train: int | None = None,
        generate: bool = False,
        sets: Mapping[str, Mapping[str, Any]] | None = None,
        images: str | None = None,
        masks: str | None = None,
        endings: Sequence[str] | None = None,
        subject: str | Sequence[str | int] | None = None,
        val_images: str | None = None,
        val_masks: str | None = None,
        val_share: float = 0.1,
        val_list: str | None = None,
        labels: Sequence[str] | Mapping[str, Any] | None = None,
        ignore: int | str | Sequence[int | str] | None = None,
        others: str | None = None,
    ):
        super().__init__()
        if on_bad not in ("stop", "skip"):
            raise UserError(f"data.on_bad={on_bad} is not known; choose stop or skip.")
        counts = {"val_count": val_count, "batch_size": batch_size, "val_batch_size": val_batch_size}
        if limit_train is not None:
            counts["limit_train"] = limit_train
        for name, count in counts.items():
            if type(count) is not int or count < 1:
                raise UserError(f"data.{name}={count}: give a whole number of images, from 1 on.")
        if type(val_share) not in (int, float) or not 0 < val_share < 1:
            raise UserError(f"data.val_share={val_share}: give a part of the training images, above 0 and below 1.")
        if type(num_workers) is not int or num_workers < 0:
            raise UserError(f"data.num_workers={num_workers}: give a whole number of processes, from 0 on.")
        if type(seed) is not int or seed < 0:
            raise UserError(f"data.seed={seed}: give a whole number from 0 on.")
        if root is None or root == "":
            raise UserError(f"data.root={root}: give the folder of the data sets, . for the one you are in.")
        self.root = root if "://" in str(root) else user_path(str(root))
        given = {"images": images, "masks": masks, "endings": endings, "subject": subject}
        val_folders = {"images": val_images, "masks": val_masks}
        classes = {"labels": labels, "ignore": ignore, "others": others}
        own, has_val, has_test = short_sets(sets, str(root), given, val_folders, classes)
        if has_val and not val:
            val = ["own_val"]
        if has_test and test == {"own": None}:
            test = {"own_test": None}
        if own and "own" not in own and test == {"own": None}:  # sets have other names
            test = train
        if isinstance(test, Sequence) and all(isinstance(one, str) for one in test):
            test = dict.fromkeys([test] if isinstance(test, str) else test)
        for name, names in {"train": train, "val": val}.items():
            listed = isinstance(names, Sequence) and all(isinstance(one, str) for one in names)
            if not listed:
                raise UserError(f"data.{name}={names}: give the names of data sets, e.g. [duts_tr].")
        if test is not None and not isinstance(test, Mapping):
            raise UserError(f"data.test={test}: give each set's name and how many images, e.g. {{ecssd: null}}.")
        self.train_sets, self.val_sets = (
            [get_data_set(name, own) for name in ([names] if isinstance(names, str) else names)]
            for names in (train, val)
        )
        self.test_sets = {get_data_set(name, own): count for name, count in (test or {}).items()}
        self.shards = known_shards(shards)
        self.batch_size, self.val_batch_size, self.val_count = batch_size, val_batch_size, val_count
        size = DEFAULT_SIDE if size is None else size
        shape = list(sides(size))
        self.size = size if isinstance(size, int) else shape
        self.augment, self.on_bad = augment, on_bad
        self.val_share, self.val_list = val_share, user_path(val_list) if val_list else None
        self.cache = SquareCache(cache, size, cache_gb) if cache else None
        self.num_workers, self.seed, self.limit_train, self.generate = num_workers, seed, limit_train, generate
        self.train_pairs: list[Pair] = []
        self.val_pairs: list[Pair] = []

    def setup(self, stage: str | None = None) -> None:
        """Find, check and divide the pairs of training and validation.

        Raises:
            UserError: no training set is there, none has masks to validate by, or some pairs cannot be used; see
                `on_bad`.
        """
        if self.train_pairs:
            return
        if not self._has_training():
            raise UserError("This data config names no training sets; train with data=duts or data=sample.")
        (train, problems), (val, others) = self._checked(self.train_sets), self._checked(self.val_sets)
        bare, unusable = self._without_masks()
        self._deal_with([*problems, *others, *unusable])
        if not (train if self.train_sets else bare):
            if problems or unusable:
                refuse([*problems, *unusable], None, "Nothing is left to train on. Mend the files.")
            raise UserError(self._nothing_found(self.train_sets))
        self.val_pairs = self._validation(train, val, bare)
        held_out = set(self.val_pairs)
        kept = [pair for pair, _ in train if pair not in held_out]
        if not (kept or bare):
            log.warning(
                "validating on the only training image, as there is no other: scores say nothing about other images"
            )
            kept = [pair for pair, _ in train]
        self.train_pairs = kept[: self.limit_train]
        self.train_pairs += [pair for pair, _ in bare][: self.limit_train]
        if not val and held_out.isdisjoint(self.train_pairs):
            log.info("validation: %d training images held out (seed %d)", len(self.val_pairs), self.seed)
            if len(self.val_pairs) < FEW:
                log.info("so few images say little about others; a larger data.val_share takes more")
        without = f" ({len(bare[: self.limit_train])} without masks)" if bare else ""
        log.info("training on %d images%s, validating on %d", len(self.train_pairs), without, len(self.val_pairs))

    def _has_training(self) -> bool:
        return bool(self.train_sets)

    def _without_masks(self) -> tuple[list[tuple[Pair, Record]], list[Problem]]:
        """Further training images, as `_checked` gives them."""
        return [], []

    def _validation(self, train: manifest.Checked, val: manifest.Checked, bare: manifest.Checked) -> list[Pair]:
        raise NotImplementedError

    def _held_out_count(self, train: manifest.Checked) -> int:
        """How many of the training images validate, where no others do."""
        return min(self.val_count, max(1, int(len(train) * self.val_share + 1e-9)))

    def for_task(self) -> dict:
        """What a task has to know of the data: its arguments."""
        return {"size": self.size}

    def photos(self) -> Photos:
        """The training images, without masks."""
        return Photos([pair.image for pair in self.train_pairs], self.size)

    def state_dict(self) -> dict[str, str | int]:
        """What the stream of samples depends on, kept in every checkpoint; image sets as hashes of their contents."""
        return {
            "training images": _hash(self.train_pairs),
            "validation images": _hash(self.val_pairs),
            "seed": self.seed,
            "global batch size": self.batch_size,
            "image size": self.size,
        }

    def load_state_dict(self, state_dict: dict[str, str | int]) -> None:
        here = self.state_dict()
        if changed := [name for name, value in state_dict.items() if here.get(name, value) != value]:
            log.warning(
                "the checkpoint was made with other %s: from here the samples differ from those of its own run", changed
            )

    def test_pairs(self, withheld: bool = False) -> dict[str, list[Pair]]:
        """The pairs that `eval.py` scores, by the name of their set; never none.

        Args:
            withheld: also those sets whose masks a test server keeps; their pairs have none.

        Raises:
            UserError: no test sets are configured, or one of them is not on disk.
        """
        if not self.test_sets:
            raise UserError("This data config names no sets to score; use another, e.g. data=ecssd or data=duts_te.")
        if not withheld:
            refuse_withheld(self.test_sets)
        self.prepare_data()
        found = {one: find_pairs(one, self.root, self.shards.get(one.name)) for one in self.test_sets}
        if missing := [data_set for data_set, pairs in found.items() if not pairs]:
            raise UserError(self._nothing_found(missing))
        for data_set, count in self.test_sets.items():
            if count is not None and (type(count) is not int or count < 1):
                raise UserError(f"data.test.{data_set.name}={count}: give a whole number of images, or null for all.")
            _compare_count(data_set, len(found[data_set]))
        return {data_set.name: pairs[: self.test_sets[data_set]] for data_set, pairs in found.items()}

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
        content = _hash(self.train_pairs)
        if trainer.world_size > 1 and trainer.strategy.broadcast(content) != content:
            raise UserError(
                "The processes found different training images, perhaps because only some of them can read a file."
            )
        skip = self.on_bad == "skip"
        stream = TrainStream(self.train_pairs, self.size, self.augment, self.seed, skip, self.cache)
        return self._loader(stream, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        count, processes = len(self.val_pairs), self.trainer.world_size
        if count < processes:  # one without any would not take part in the reductions that the others wait for
            raise UserError(f"{count} validation images are not enough for {processes} processes; each needs one.")
        share = range(self.trainer.global_rank, count, processes)
        pairs = [self.val_pairs[i] for i in share]
        return self._loader(PairDataset(pairs, self.size, cache=self.cache), batch_size=self.val_batch_size)

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """What is labelled is asked by the host, which then need not wait for the device."""
        return batch | {"labelled": batch["labelled"].tolist()}

    def _loader(self, dataset: PairDataset, **options) -> DataLoader:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            worker_init_fn=_one_thread,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options,
        )

    def _checked(self, sets: Sequence[DataSet]) -> tuple[list[tuple[Pair, Record]], list[Problem]]:
        """The usable pairs of those sets that are there, with what is in them, and why others are not usable."""
        usable, problems, missing = [], [], []
        for data_set in sets:
            listing = list_pairs(data_set, self.root, self.shards.get(data_set.name))
            title = data_set.title
            if listing is None:
                missing.append(title)
                continue
            if listing.extra:
                log.warning("%s: %d masks have no image, e.g. %s", title, len(listing.extra), listing.extra[0].name)
            found, bad = self._usable(listing, title)
            usable, problems = usable + found, problems + bad
            _compare_count(data_set, len(found))
        if missing and usable:  # without any the run ends, and says so
            is_not = "is not" if len(missing) == 1 else "are not"
            log.warning("%s %s under %s: continuing without", ", ".join(missing), is_not, self.root)
        return usable, problems

    def _usable(self, listing: Listing, title: str) -> tuple[list[tuple[Pair, Record]], list[Problem]]:
        usable, problems = [], list(listing.problems)
        for pair, record in zip(listing.pairs, examine_all(listing.pairs, title), strict=True):
            if record.kind:
                problems.append(Problem(pair.set, pair.name, record.kind, record.problem))
            else:
                usable.append((replace(pair, content=record.content), record))
        return usable, problems

    def _deal_with(self, problems: Sequence[Problem]) -> None:
        if self.on_bad == "stop":
            refuse(problems, None, "Mend or remove the files, or leave them out with data.on_bad=skip.")
        for problem in problems:
            log.warning("left out (%s): %s", problem.kind, problem.text)
        if problems:
            log.warning("%d pairs left out (data.on_bad=skip)", len(problems))

    def _nothing_found(self, sets: Sequence[DataSet]) -> str:
        places = "; ".join(expected_places(data_set, self.root) for data_set in sets)
        data_set = sets[0]
        fetch = f"To download: python -m u2slim.data.fetch set={data_set.name} root={self.root}"
        remedy = fetch if data_set.archives or not data_set.labels else f"{data_set.by_hand} {data_set.home_page}"
        return f"No data under data.root={self.root}. Expected (folders in any case): {places}. {remedy}"


def refuse_withheld(sets: Iterable[DataSet]) -> None:
    """Raise UserError where one of the sets has no masks that anyone may see."""
    if titles := [data_set.title for data_set in sets if data_set.withheld]:
        raise UserError(
            f"The labels of {titles[0]} are not published, so nothing can be trained or scored on it here. "
            "python eval.py checkpoint=... submit=FOLDER writes the files that its test server scores."
        )


def _hash(pairs: Sequence[Pair]) -> str:
    return hashlib.sha256("".join(pair.content for pair in pairs).encode()).hexdigest()[:16]


def _compare_count(data_set: DataSet, found: int) -> None:
    if data_set.count and found != data_set.count:
        log.warning("%s: %d images found, %d published", data_set.title, found, data_set.count)


def _one_thread(worker: int) -> None:
    # Workers are processes already; OpenCV's own threads would only make them contend.
    cv2.setNumThreads(0)
