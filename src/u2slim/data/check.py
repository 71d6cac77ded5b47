"""Opening every pair once, whole, to know what is in it: for training's start-up and for the doctor."""

import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import imagehash
import numpy as np
from loky import ProcessPoolExecutor, cpu_count
from loky.process_executor import BrokenProcessPool
from PIL import Image
from rich.progress import track

from u2slim.data import shards
from u2slim.data.own_masks import MadeMask
from u2slim.data.pairs import Pair, misfit
from u2slim.errors import BadLabels, UserError
from u2slim.files import cache_dir
from u2slim.images.read import Source, load, read_header, read_image, read_stored
from u2slim.processes import start_worker

TABLE = "records_2"  # count on whenever examine() would say something else of the same files
MIN_SIDE = 16  # pixels; below, the six poolings of the net see one flat patch
GREY = 0.1  # the share of a mask's pixels between 0 and 255 from which it counts as noisy: soft edges take less
THUMBNAIL = 16
BAD_LABELS = "bad labels"
MIN_PARALLEL = 200  # pairs that are faster looked at here than by processes that have to start first

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What is in a pair of files; of an image without a mask, what is said of masks stays empty.

    Attributes:
        kind, problem: why the pair cannot be used, as in `Problem`; empty where it can.
        image_hash, mask_hash: of the files' bytes (BLAKE2b, 128 bits).
        colours: how the image is stored, as Pillow's mode; `gray` says that its three channels are equal.
        perceptual: the image's 64-bit perceptual hash; `thumbnail` its 16x16 gray version, both in hexadecimal.
        mask_mode: how the mask is stored, as Pillow's mode (`L` gray, `RGB`, `P` palette, `1`, `I;16`).
        levels: how many different values the mask has, `top` the largest.
        grey: the share of the mask's pixels that are neither 0 nor its largest value.
        foreground: the share of the mask's pixels in the upper half.
        classes: of a label image: the pixels of each class, and last of none. What is said of masks stays empty then,
            and so do `perceptual` and `thumbnail`: the frames of a video are alike.
    """

    kind: str = ""
    problem: str = ""
    image_hash: str = ""
    mask_hash: str = ""
    colours: str = ""
    gray: bool = False
    perceptual: str = ""
    thumbnail: str = ""
    mask_mode: str = ""
    levels: int = 0
    top: int = 0
    grey: float = 0.0
    foreground: float = 0.0
    classes: Sequence[int] = ()

    @property
    def content(self) -> str:
        """As `content_of` the pair."""
        return self.image_hash + self.mask_hash


def examine(pair: Pair) -> Record:
    """Decode the files of a pair completely."""
    labels = pair.data_set.labels
    try:
        image = load(pair.image)
        pixels, header = read_image(image), read_header(image)
        if pair.mask:
            mask = load(pair.mask)
            values = None if labels else read_stored(mask)
            mask_header = read_header(mask)
    except BadLabels as error:
        return Record(BAD_LABELS, str(error))
    except UserError as error:
        return Record("unreadable", str(error))
    hashes = {"image_hash": image.hash()} | ({"mask_hash": mask.hash()} if pair.mask else {})
    if pair.mask and (problem := misfit(pair, header, mask_header)):
        return Record(problem.kind, problem.text, **hashes)
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        text = f"{pair.image} is {width}x{height}, too small to learn from (under {MIN_SIDE} pixels)"
        return Record("too small", text, **hashes)
    if labels and pair.mask is None:
        return Record(**hashes, colours=header.mode)
    if labels:
        try:
            return Record(**hashes, colours=header.mode, mask_mode=mask_header.mode, classes=labels.count(mask))
        except BadLabels as error:
            return Record(BAD_LABELS, str(error), **hashes)
        except UserError as error:
            return Record("unreadable", str(error))
    gray = Image.fromarray(pixels).convert("L")
    record = Record(
        **hashes,
        colours=header.mode,
        gray=all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in (1, 2)),
        perceptual=str(imagehash.phash(gray)),
        thumbnail=gray.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes().hex(),
    )
    return replace(record, **_mask_facts(values), mask_mode=mask_header.mode) if pair.mask else record


def _mask_facts(values: np.ndarray) -> dict[str, int | float]:
    if values.dtype != np.uint8:
        values = (values if values.max() < 256 else values >> 8).clip(0, 255).astype(np.uint8)
    counts = np.array(Image.fromarray(values).histogram())
    found = np.flatnonzero(counts)
    top = int(found[-1])
    return {
        "levels": len(found),
        "top": top,
        "grey": float(counts[1:top].sum() / values.size),
        "foreground": float(counts[top // 2 + 1 :].sum() / values.size) if top else 0.0,
    }


def examine_all(pairs: Sequence[Pair], title: str) -> list[Record]:
    """The records of pairs, in their order. Files that could be read and have not changed since are not opened again.

    Records are kept in the cache folder (`checked.sqlite`) by the files' places, sizes and times of change.

    Args:
        title: what the progress bar calls them.
    """
    keys = list(_keys(pairs))
    with _kept() as kept:
        rows = (kept.execute(f"SELECT key, record FROM {TABLE} WHERE key = ?", (key,)).fetchone() for key in keys)
        known = dict(filter(None, rows))
        todo = [index for index, key in enumerate(keys) if key not in known]
        if len(todo) >= MIN_PARALLEL:
            log.info("%s: opening %d pairs for the first time; the next start will remember them", title, len(todo))
        quick = len(todo) < MIN_PARALLEL
        for index, record in track(_examined(pairs, todo), f"Checking {title}", len(todo), disable=quick):
            known[keys[index]] = json.dumps(asdict(record))
            if record.kind != "unreadable":  # which may also be the disk's fault, or the file's permissions'
                kept.execute(f"INSERT OR REPLACE INTO {TABLE} VALUES (?, ?)", (keys[index], known[keys[index]]))
    try:
        return [Record(**json.loads(known[key])) for key in keys]
    except (ValueError, TypeError) as error:
        raise _not_kept(error) from error


def _examined(pairs: Sequence[Pair], todo: Sequence[int]) -> Iterator[tuple[int, Record]]:
    if len(todo) < MIN_PARALLEL:
        yield from ((index, examine(pairs[index])) for index in todo)
        return
    try:
        with ProcessPoolExecutor(cpu_count(), initializer=start_worker) as pool:
            yield from zip(todo, pool.map(examine, (pairs[index] for index in todo), chunksize=32), strict=True)
    except BrokenProcessPool as error:
        raise UserError(
            "A process that checks the files died, perhaps out of memory. Run it again: checked files are remembered."
        ) from error


def _keys(pairs: Sequence[Pair]) -> Iterator[bytes]:
    states: dict[str, str] = {}

    def state(source: Source) -> str:
        if isinstance(source, shards.Member):
            if source.shard not in states:
                states[source.shard] = shards.state(source.shard)
            return f"{source} {source.offset} {states[source.shard]}"
        if isinstance(source, MadeMask):
            return f"{state(source.path)} {source.how}"
        try:
            stat = Path(source).stat()
        except OSError as error:
            return f"{source} {error.errno}"
        # The time of the last change of any kind, too: copying a mended file often keeps the time of its contents.
        return f"{Path(source).absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"

    for pair in pairs:
        yield os.fsencode(f"{state(pair.image)} {state(pair.mask) if pair.mask else ''}")


@contextmanager
def _kept() -> Iterator[sqlite3.Connection]:
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_kept(error) from error
    try:
        with closing(sqlite3.connect(_file(), timeout=60, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (key BLOB PRIMARY KEY, record TEXT)")
            yield connection
    except sqlite3.Error as error:
        raise _not_kept(error) from error


def _file() -> Path:
    return cache_dir() / "checked.sqlite"


def _not_kept(error: Exception) -> UserError:
    return UserError(
        f"The findings about the data cannot be saved in {_file()} ({error}); delete that file if it is damaged, or "
        f"set U2SLIM_CACHE to a folder that can be written."
    )
