"""Many models on many data sets: predictions here, scores in all processes, nothing computed twice."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from loky import ProcessPoolExecutor, cpu_count
from loky.process_executor import BrokenProcessPool
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from u2slim.data.data_set import DataSet
from u2slim.data.pairs import Pair
from u2slim.errors import UserError
from u2slim.evaluation.agreement import agreement, over_images, unpacked
from u2slim.evaluation.class_counts import ClassCounts
from u2slim.evaluation.entries import Model
from u2slim.evaluation.results import BETA2, CURVES, SCORES, Result
from u2slim.evaluation.scoring import FALSE_ALARM, IMAGE_SCORES, ImageScores, score_image
from u2slim.evaluation.store import Store, digest
from u2slim.images.read import load, read_image
from u2slim.processes import start_worker

NICE = 10  # of 19: scoring stands behind the net, but not behind everything else on the machine
IN_FLIGHT = 4  # images per process between the net and the scores: what bounds memory
CHANGED = "one of its files has changed while it was scored; run again"

# Without these glibc gives every image-sized array back to the system and asks for it again: a fifth of the time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(10**9), "MALLOC_TRIM_THRESHOLD_": str(10**9)}


@dataclass
class Scored:
    """One model on one set: the key of each pair's scores, or why it has none."""

    data_set: DataSet
    keys: dict[str, bytes] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def finished(self, store: Store, stretch: bool) -> Iterator[tuple[str, ImageScores]]:
        """(name, scores) of the pairs that have them, in the set's order."""
        for name, key in self.keys.items():
            if name not in self.left_out:
                yield name, store[key, stretch]

    def counted(self, store: Store) -> Iterator[tuple[str, ClassCounts]]:
        """(name, what was counted) of the same of a set with classes."""
        for name, key in self.keys.items():
            if name not in self.left_out and (counts := store.counts(key)) is not None:
                yield name, counts

    def agreements(self, other: "Scored", store: Store, stretch: bool) -> dict[str, float]:
        """The IoU with another model's masks of the images that are in the averages and that both have masks of."""
        theirs = {name: key for name, key in other.keys.items() if name not in other.left_out}
        return {
            name: agreement(unpacked(scores.cut), unpacked(store[theirs[name], stretch].cut))
            for name, scores in self.finished(store, stretch)
            if name in theirs and scores.has_subject
        }


def score_all(
    models: Mapping[str, Model],
    sets: Mapping[str, Sequence[Pair]],
    store: Store,
    stretches: Sequence[bool] = (True, False),
    workers: int | None = None,
) -> dict[tuple[str, str], Scored]:
    """Put the scores of every model on every pair into the store, and say where by (model, set).

    Args:
        sets: the pairs of each set, by its name.
        stretches: with per-image min-max, without, or both.
        workers: scoring processes, by default one a core.

    Raises:
        UserError: a model has no usable prediction in a whole set, or a scoring process died.
    """
    workers = min(workers or cpu_count(), max(map(len, sets.values())))
    made_by = {name: digest(model.fingerprint()) for name, model in models.items()}
    result = {}
    with progress_bars() as progress, _scorers(workers) as pool:
        for data, pairs in sets.items():
            data_set = pairs[0].data_set
            title = data_set.title
            contents = {pair.name: content_digest(pair) for pair in pairs}
            for name, model in models.items():
                files = model.mask_files(data_set) if model.folder else None
                scored = result[name, data] = _keys(data_set, made_by[name], contents, files)
                keys = scored.keys
                todo = [p for p in pairs if p.name in keys and any((keys[p.name], s) not in store for s in stretches)]
                task = progress.add_task(
                    escape(f"{name} on {title}"), total=len(pairs), completed=len(pairs) - len(todo)
                )
                predictions = _predictions(model, files, todo, scored.left_out)
                jobs = ((p, (prediction, p.mask, stretches, model.refine, p.image)) for p, prediction in predictions)
                for pair, scores in _ahead(pool(), score_image, jobs, IN_FLIGHT * workers):
                    if isinstance(scores, str):
                        scored.left_out[pair.name] = scores
                    elif _key(made_by[name], pair, files) != keys[pair.name]:
                        scored.left_out[pair.name] = CHANGED
                    else:
                        for stretch, one in scores.items():
                            store[keys[pair.name], stretch] = one
                    progress.advance(task)
                progress.update(task, completed=len(pairs))
                if len(scored.left_out) == len(pairs):
                    image, reason = next(iter(scored.left_out.items()))
                    where = f" (looked in {model.folder} for files named as the images)" if model.folder else ""
                    raise UserError(f"{name} has no usable prediction on {title}: {image}: {reason.strip('.')}{where}.")
    return result


def summarise(name: str, scored: Scored, store: Store, stretch: bool, agree_with: Scored | None = None) -> Result:
    """A model's averages over a set, and its false alarms on the images whose truth is all black.

    Args:
        agree_with: the same set by another model, whose masks those of this one are held against.
    """
    count, negatives, alarms, ious = 0, 0, 0, []
    values, curves = np.zeros(len(IMAGE_SCORES)), np.zeros((len(CURVES), 256))
    for _, scores in scored.finished(store, stretch):
        if not scores.has_subject:
            negatives += 1
            alarms += scores.note == FALSE_ALARM
            continue
        values += scores.values
        curves += scores.curves
        ious.append(scores.values[IMAGE_SCORES.index("IoU")])
        count += 1
    left_out = dict(sorted(scored.left_out.items()))
    seen = {"alarms": alarms / negatives} if negatives else {}
    if not count:
        return Result(name, scored.data_set.title, stretch, {}, {}, 0, left_out, negatives=negatives, alarms=seen)
    means = dict(zip(IMAGE_SCORES, values / count, strict=True))
    curve = dict(zip(CURVES, curves / count, strict=True))
    precision, recall = curve["precision"], curve["recall"]
    weighted = BETA2 * precision + recall
    means["maxF"], means["maxE"] = curve["F"].max(), curve["E"].max()
    means["maxF_set"] = np.divide((1 + BETA2) * precision * recall, weighted, where=weighted > 0, out=weighted).max()
    ordered = {score: float(means[score]) for score in SCORES}
    agreed = list(scored.agreements(agree_with, store, stretch).values()) if agree_with else []
    found = ordered, curve, count, left_out, np.array(ious), over_images(agreed)
    return Result(name, scored.data_set.title, stretch, *found, negatives, seen)


def _keys(data_set: DataSet, made_by: bytes, contents: Mapping[str, bytes], files: Mapping[str, Path] | None) -> Scored:
    scored = Scored(data_set)
    for name, content in contents.items():
        if files is None:
            scored.keys[name] = digest(made_by, content)
        elif name in files:
            try:
                scored.keys[name] = digest(made_by, content, files[name])
            except OSError as error:
                scored.left_out[name] = f"{files[name]} cannot be read ({error.strerror})"
        else:
            scored.left_out[name] = "no prediction"
    return scored


def content_digest(pair: Pair) -> bytes:
    """A hash of what a photo's file and its mask's hold.

    Raises:
        UserError: one of them cannot be read.
    """
    return digest(*(load(file).data for file in (pair.image, pair.mask)))


def _key(made_by: bytes, pair: Pair, files: Mapping[str, Path] | None) -> bytes | None:
    """As `_keys` of one pair, by what its files hold now; None where one is gone."""
    try:
        return _keys(pair.data_set, made_by, {pair.name: content_digest(pair)}, files).keys.get(pair.name)
    except UserError:
        return None


def _predictions(
    model: Model, files: Mapping[str, Path] | None, pairs: Sequence[Pair], left_out: dict[str, str]
) -> Iterator[tuple[Pair, np.ndarray | Path]]:
    """Each pair with its prediction; pairs without one are put into `left_out` instead."""
    if files is not None:
        yield from ((pair, files[pair.name]) for pair in pairs)
        return
    with ThreadPoolExecutor(1) as reader:
        for pair, image in _ahead(reader, _read, ((pair, (pair.image,)) for pair in pairs), IN_FLIGHT):
            try:
                if isinstance(image, str):
                    raise UserError(image)
                yield pair, model.runner.small_mask(image)
            except Exception as error:  # each runtime has errors of its own
                left_out[pair.name] = reason_of(error)


def reason_of(error: Exception) -> str:
    """Why a photo has no prediction, by what was raised for it."""
    known = isinstance(error, UserError)
    return str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _read(path: Path) -> np.ndarray | str:
    try:
        return read_image(path)
    except UserError as error:
        return str(error)


def _ahead(
    pool: Executor, function: Callable, items: Iterable[tuple[Any, tuple]], limit: int
) -> Iterator[tuple[Any, Any]]:
    """(label, function(*arguments)) of each (label, arguments), in order, with at most `limit` of them on the way."""
    waiting = deque()
    try:
        for label, arguments in items:
            waiting.append((label, pool.submit(function, *arguments)))
            while len(waiting) > limit or (waiting and waiting[0][1].done()):
                label, future = waiting.popleft()
                yield label, future.result()
        for label, future in waiting:
            yield label, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A scoring process died, perhaps out of memory. What was finished is kept: run again, with fewer workers=."
        ) from error


@contextmanager
def _scorers(workers: int) -> Iterator[Callable[[], Executor]]:
    """A function that gives the scoring processes, which start when it is first called."""
    made = []

    def get() -> Executor:
        if not made:
            made.append(ProcessPoolExecutor(workers, initializer=start_worker, initargs=(NICE,), env=KEEP_MEMORY))
        return made[0]

    try:
        yield get
    finally:
        for pool in made:
            pool.shutdown(kill_workers=True)


def progress_bars() -> Progress:
    """A bar for each task: how many are done, of how many, and how long the rest takes."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns)
