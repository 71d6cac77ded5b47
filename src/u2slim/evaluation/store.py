"""Finished image scores on disk, so that no evaluation computes them twice."""

import hashlib
import importlib.metadata
import sqlite3
from pathlib import Path

import numpy as np

from u2slim.errors import UserError
from u2slim.evaluation.class_counts import ClassCounts
from u2slim.evaluation.results import CURVES
from u2slim.evaluation.scoring import ImageScores
from u2slim.runtime import OPTIONAL_RUNTIMES

_SOURCE = Path(__file__).parents[1]
# What makes a number: a photo and a net into a mask, and a mask and its truth into scores. Of folders all modules. Not
# `zoo`, whose nets are in the key with their weights, nor most of `data`: which mask is a photo's truth is in the key.
MAKE_NUMBERS = (
    "images",
    "models",
    "runtime",
    "sizes.py",
    "data/labels.py",
    "evaluation/agreement.py",
    "evaluation/boundary.py",
    "evaluation/class_counts.py",
    "evaluation/results.py",
    "evaluation/score_classes.py",
    "evaluation/score_sets.py",
    "evaluation/scoring.py",
)
# A new version of any of these may change one as well.
_PACKAGES = (
    "pysodmetrics",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
    "torch",
    *dict.fromkeys(module.replace("_", "-") for module in OPTIONAL_RUNTIMES.values()),
)


_TABLES = {
    "images": "key BLOB, stretch INTEGER, score BLOB, curve BLOB, note TEXT, cut BLOB, PRIMARY KEY (key, stretch)",
    "classes": "key BLOB PRIMARY KEY, confusion BLOB, things BLOB",
}


class Store:
    """Image scores by key in an SQLite file, whole after any interruption; several processes may share it.

    Opening it forgets what other code that makes numbers, or other versions of its packages, computed.
    """

    def __init__(self, path: str | Path):
        path = self.path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode = WAL")
            # An interrupted process loses nothing so; only a power cut may lose the last images.
            self.connection.execute("PRAGMA synchronous = OFF")
            version = int.from_bytes(code_digest()[:4]) >> 1  # what fits into the field
            if self.connection.execute("PRAGMA user_version").fetchone() != (version,):
                for table in _TABLES:
                    self.connection.execute(f"DROP TABLE IF EXISTS {table}")
                self.connection.execute(f"PRAGMA user_version = {version}")
            for table, columns in _TABLES.items():
                self.connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"Finished scores cannot be kept in {path} ({error}). Delete that file if it is damaged, or choose "
                f"another: store=FILE."
            ) from error

    def __contains__(self, key: tuple[bytes, bool]) -> bool:
        return self._select("1", key) is not None

    def __setitem__(self, key: tuple[bytes, bool], scores: ImageScores) -> None:
        self._insert("images", *key, scores.values.tobytes(), scores.curves.tobytes(), scores.note, scores.cut)

    def __getitem__(self, key: tuple[bytes, bool]) -> ImageScores:
        values, curves, note, cut = self._select("score, curve, note, cut", key)
        curves = np.frombuffer(curves, np.float32).reshape(len(CURVES), 256)
        return ImageScores(np.frombuffer(values, np.float64), curves, note, cut)

    def counts(self, key: bytes) -> ClassCounts | None:
        """What was counted of an image with classes, if it is there."""
        row = self.connection.execute("SELECT confusion, things FROM classes WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        confusion, things = np.frombuffer(row[0], np.int64), row[1] and np.frombuffer(row[1])
        classes = int(len(confusion) ** 0.5)
        return ClassCounts(confusion.reshape(classes, classes), None if things is None else things.reshape(4, classes))

    def keep_counts(self, key: bytes, counts: ClassCounts) -> None:
        things = None if counts.things_4C is None else counts.things_4C.tobytes()
        self._insert("classes", key, counts.confusion_CC.astype(np.int64).tobytes(), things)

    def _insert(self, table: str, *row: object) -> None:
        try:
            self.connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        except sqlite3.Error as error:
            raise UserError(
                f"No more scores can be kept in {self.path} ({error}); those that are there are whole. Make room, or "
                "choose another file: store=FILE."
            ) from error

    def _select(self, columns: str, key: tuple[bytes, bool]) -> tuple | None:
        return self.connection.execute(f"SELECT {columns} FROM images WHERE key = ? AND stretch = ?", key).fetchone()

    def close(self) -> None:
        self.connection.close()


def digest(*parts: bytes | str | Path) -> bytes:
    """A hash of files' contents, strings and other digests, in this order."""
    total = hashlib.blake2b(digest_size=20)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else part.read_bytes()
        total.update(hashlib.blake2b(content, digest_size=20).digest())
    return total.digest()


def code_digest(source: Path = _SOURCE) -> bytes:
    """A hash of our own code that makes numbers, and of the versions of the packages that it calls."""
    found = {package: importlib.metadata.version(package) for package in _PACKAGES if _installed(package)}
    return digest(str(found), *number_makers(source))


def number_makers(source: Path = _SOURCE) -> list[Path]:
    """The files of `MAKE_NUMBERS` below the folder `u2slim`, in an order that does not depend on the machine."""
    places = [source / place for place in MAKE_NUMBERS]
    return [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
