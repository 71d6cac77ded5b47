"""Opening every pair once, whole, to know what is in it: for training's start-up and for the doctor."""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import fsspec
import imagehash
import numpy as np
from loky import ProcessPoolExecutor, cpu_count
from PIL import Image
from rich.progress import track

from src.data.pairs import Pair, Problem, size_problem
from src.data.shards import Member
from src.errors import UserError
from src.files import cache_dir
from src.images import ORIENTATION, Loaded, Source, read_gray, read_image, unreadable
from src.processes import start_worker

VERSION = 1  # raise it whenever examine() would say something else of the same files
MIN_SIDE = 16  # pixels; below, the six poolings of the net see one flat patch
GREY = 0.1  # the share of a mask's pixels between 0 and 255 from which it counts as noisy: soft edges take less
THUMBNAIL = 16
FEW = 200  # pairs that are faster looked at here than by processes that have to start first

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What is in a pair of files.

    Attributes:
        kind, problem: why the pair cannot be used, as in `Problem`; empty where it can.
        image_hash, mask_hash: of the files' bytes (BLAKE2b, 128 bits).
        colours: how the image is stored, as Pillow's mode; `gray` says that its three channels are equal.
        perceptual: the image's 64-bit perceptual hash; `thumbnail` its 16x16 gray version, both in hexadecimal.
        mask_mode: how the mask is stored, as Pillow's mode (`L` gray, `RGB`, `P` palette, `1`, `I;16`).
        levels: how many different values the mask has, `top` the largest.
        grey: the share of the mask's pixels that are neither 0 nor its largest value.
        foreground: the share of the mask's pixels in the upper half.
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


def examine(pair: Pair) -> Record:
    """Decode both files of a pair completely."""
    try:
        image, mask = _load(pair.image), _load(pair.mask)
        pixels, values = read_image(image), read_gray(mask)
    except UserError as error:
        return Record("unreadable", str(error))
    height, width = values.shape
    image_mode, image_turn, image_raw = _header(image)
    mask_mode, mask_turn, _ = _header(mask)
    problem = None
    if pixels.shape[:2] != values.shape:
        problem = size_problem(pair, pixels.shape, values.shape)
        if image_turn != mask_turn and image_raw == (height, width):
            problem = Problem(pair.set, pair.name, "other turn", f"{problem.text}: only the image's EXIF data turn it")
    elif (image_turn > 1) != (mask_turn > 1) and (max(image_turn, mask_turn) < 5 or height == width):
        # A quarter turn shows in the sizes, where they are not square; others cannot be told from the files.
        text = f"{pair.image} and its mask have other EXIF orientations ({image_turn} and {mask_turn})"
        problem = Problem(pair.set, pair.name, "other turn", text)
    elif min(height, width) < MIN_SIDE:
        text = f"{pair.image} is {width}x{height}, too small to learn from (under {MIN_SIDE} pixels)"
        problem = Problem(pair.set, pair.name, "too small", text)
    if problem:
        return Record(problem.kind, problem.text, _hash(image), _hash(mask))
    gray = Image.fromarray(pixels).convert("L")
    found, top = np.unique(values), int(values.max())
    return Record(
        image_hash=_hash(image),
        mask_hash=_hash(mask),
        colours=image_mode,
        gray=bool((pixels == pixels[..., :1]).all()),
        perceptual=str(imagehash.phash(gray)),
        thumbnail=gray.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes().hex(),
        mask_mode=mask_mode,
        levels=len(found),
        top=top,
        grey=float(((values > 0) & (values < top)).mean()),
        foreground=float((values.astype(np.int32) * 2 > max(top, 1)).mean()),
    )


def examine_all(pairs: Sequence[Pair], title: str) -> list[Record]:
    """The records of pairs, in their order. Files that have not changed since are not opened again.

    Records are kept in the cache folder (`checked.sqlite`) by the files' places, sizes and times of change.

    Args:
        title: what the progress bar calls them.
    """
    keys = list(_keys(pairs))
    with closing(_kept()) as kept:
        known = dict(kept.execute("SELECT key, record FROM records"))
        todo = [index for index, key in enumerate(keys) if key not in known]
        if len(todo) >= FEW:
            log.info("%s: opening %d pairs for the first time; the next start will remember them", title, len(todo))
        for index, record in track(_examined(pairs, todo), f"Checking {title}", len(todo), disable=len(todo) < FEW):
            known[keys[index]] = json.dumps(asdict(record))
            kept.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (keys[index], known[keys[index]]))
    return [Record(**json.loads(known[key])) for key in keys]


def _examined(pairs: Sequence[Pair], todo: Sequence[int]) -> Iterator[tuple[int, Record]]:
    if len(todo) < FEW:
        yield from ((index, examine(pairs[index])) for index in todo)
        return
    with ProcessPoolExecutor(cpu_count(), initializer=start_worker) as pool:
        yield from zip(todo, pool.map(examine, (pairs[index] for index in todo), chunksize=32), strict=True)


def _keys(pairs: Sequence[Pair]) -> Iterator[str]:
    states: dict[str, str] = {}

    def state(source: Source) -> str:
        if isinstance(source, Member):
            if source.shard not in states:
                filesystem, path = fsspec.url_to_fs(source.shard)
                states[source.shard] = filesystem.ukey(path)
            return f"{source} {source.offset} {states[source.shard]}"
        try:
            stat = Path(source).stat()
        except OSError as error:
            return f"{source} {error.errno}"
        return f"{Path(source).absolute()} {stat.st_size} {stat.st_mtime_ns}"

    for pair in pairs:
        yield f"{state(pair.image)} {state(pair.mask)}"


def _kept() -> sqlite3.Connection:
    path = cache_dir() / "checked.sqlite"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        if connection.execute("PRAGMA user_version").fetchone() != (VERSION,):
            connection.execute("DROP TABLE IF EXISTS records")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, record TEXT)")
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"What is known of the data cannot be kept in {path} ({error}); delete that file if it is damaged, or "
            f"set U2SLIM_CACHE to a folder that can be written."
        ) from error
    return connection


def _load(source: Source) -> Loaded:
    try:
        return Loaded(str(source), source.read_bytes())
    except OSError as error:
        raise unreadable(source, error) from error


def _hash(source: Loaded) -> str:
    return hashlib.blake2b(source.data, digest_size=16).hexdigest()


def _header(source: Loaded) -> tuple[str, int, tuple[int, int]]:
    """Pillow's mode, the EXIF orientation, and the (height, width) before it."""
    with Image.open(BytesIO(source.data)) as image:
        mode = "L" if image.format == "WEBP" and image.mode == "RGB" else image.mode  # WebP has no gray of its own
        return mode, image.getexif().get(ORIENTATION, 1), (image.height, image.width)
