"""Decoded, resized samples on disk, memory-mapped and shared by all processes of all runs."""

import logging
import math
import os
import zlib
from pathlib import Path

import lmdb
import numpy as np

from u2slim.errors import UserError
from u2slim.files import real_path, user_path
from u2slim.sizes import Size, sides

CACHE_VERSION = 2  # raise it whenever a pair's square would have other pixels

log = logging.getLogger(__name__)

# LMDB has a folder open at most once in a process, and never across a fork.
_OPEN: dict[Path, lmdb.Environment] = {}


def _close_all() -> None:
    while _OPEN:
        _OPEN.popitem()[1].close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_all)


class SquareCache:
    """Squares, as RGB (S, S, 3) and mask (S, S) uint8, by the content of the files that they come from.

    An LMDB file: readers map it, writers wait for each other, a killed process leaves it whole. It grows up to its
    bound and then stays as it is. Only a power cut can damage it; each square carries a checksum for that.

    Args:
        folder: made where it is missing.
        size: the squares' side S in pixels, or [height, width]; part of the key.
        gigabytes: the bound of the file; a square of 320 pixels takes 0.41 MB.
    """

    def __init__(self, folder: str | Path, size: Size, gigabytes: float):
        if type(gigabytes) not in (int, float) or not 0 < gigabytes < math.inf:
            raise UserError(f"data.cache_gb={gigabytes}: give a size above 0, or data.cache=null for no cache.")
        self.folder, self.bytes = real_path(user_path(folder)), int(gigabytes * 1e9)
        self.size, self.shape = size, sides(size)
        # A square's key is older than other shapes.
        self._shape_key = str(self.shape[0]) if self.shape[0] == self.shape[1] else "{}x{}".format(*self.shape)
        self._full = False
        if previous := _OPEN.pop(self.folder, None):  # its bound may be another
            previous.close()
        self._open()

    def get(self, content: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The image and mask of a pair of files, or None where they are not kept. The arrays are the caller's own."""
        try:
            with self._begin(buffers=True) as transaction:
                kept = transaction.get(self._key(content))
                if kept is None:
                    return None
                flat = np.array(kept)
        except lmdb.Error as error:
            log.warning("%s: a sample that cannot be read is made anew (%s)", self.folder, error)
            return None
        pixels, checksum = flat[:-4], int.from_bytes(flat[-4:].tobytes(), "little")
        if zlib.crc32(pixels) != checksum:
            log.warning("%s: a damaged sample is made anew", self.folder)
            return None
        of_image = 3 * self.shape[0] * self.shape[1]
        return pixels[:of_image].reshape(*self.shape, 3), pixels[of_image:].reshape(self.shape)

    def put(self, content: str, image: np.ndarray, mask: np.ndarray) -> None:
        """Keep a square, unless the bound is reached."""
        if self._full:
            return
        pixels = np.concatenate([image.reshape(-1), mask.reshape(-1)])
        value = pixels.tobytes() + zlib.crc32(pixels).to_bytes(4, "little")
        try:
            with self._begin(write=True) as transaction:
                transaction.put(self._key(content), value)
        except lmdb.Error as error:
            self._full = True
            log.warning("%s takes no more samples (%s): the rest is decoded each time", self.folder, error)

    def _key(self, content: str) -> bytes:
        return f"{CACHE_VERSION} {self._shape_key} {content}".encode()

    def _begin(self, **options) -> lmdb.Transaction:
        try:
            return self._open().begin(**options)
        except lmdb.MapResizedError:  # by a run with a larger bound
            self._open().set_mapsize(0)
            return self._open().begin(**options)

    def _open(self) -> lmdb.Environment:
        if self.folder in _OPEN:
            return _OPEN[self.folder]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            environment = lmdb.open(
                str(self.folder), map_size=self.bytes, sync=False, readahead=False, max_readers=1024
            )
            needed = environment.stat()["psize"] * environment.info()["last_pgno"]  # first: others may write meanwhile
            if (self.folder / "data.mdb").stat().st_size < needed:
                environment.close()
                raise lmdb.CorruptedError("data.mdb is cut short")  # reading it would end the process
        except (OSError, OverflowError, lmdb.Error) as error:
            raise UserError(
                f"No cache of samples can be kept in {self.folder} ({error}); choose another folder "
                f"(data.cache=DIR), delete it if it is damaged, or use data.cache=null."
            ) from error
        _OPEN[self.folder] = environment
        return environment
