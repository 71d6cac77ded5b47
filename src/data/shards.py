"""Pairs inside tar shards, read in place: local or behind any address that fsspec knows.

A shard is an uncompressed tar in webdataset's convention: `NAME.image.jpg` and `NAME.mask.png` (any extension that
images may have) make the pair NAME. A member is read by its position, so that every sample of the stream stays
addressed; only the tar headers are walked, once.
"""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import fsspec

from src.errors import UserError
from src.files import cache_dir, write_whole


@dataclass(frozen=True)
class Member:
    """A file inside a shard."""

    shard: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"

    def read_bytes(self) -> bytes:
        # Every process makes (and fsspec then keeps) a file system of its own: theirs do not survive a fork.
        filesystem, path = fsspec.url_to_fs(self.shard)
        data = filesystem.cat_file(path, start=self.offset, end=self.offset + self.size)
        if len(data) != self.size:
            raise OSError(f"{len(data)} of {self.size} bytes: the shard is cut short")
        return data


def expand(patterns: str | Sequence[str]) -> list[str]:
    """The shards that local paths, addresses, or globs of either name.

    Raises:
        UserError: a listing cannot be had.
    """
    found = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            filesystem, path = fsspec.url_to_fs(pattern)
            matches = sorted(filesystem.glob(path)) if "*" in path else [path] if filesystem.isfile(path) else []
            found += [filesystem.unstrip_protocol(match) if "://" in pattern else match for match in matches]
        except Exception as error:  # each file system has errors of its own
            raise UserError(f"No shards can be listed at {pattern} ({type(error).__name__}: {error}).") from error
    return found


def members(shard: str) -> list[Member]:
    """All files of a shard in its order. The index of a remote one is kept in the cache folder.

    Raises:
        UserError: the shard cannot be read, is compressed, or is cut short.
    """
    try:
        filesystem, path = fsspec.url_to_fs(shard)
        if "://" not in shard:
            return _walk(shard, filesystem, path)
        state = hashlib.sha256(f"{shard} {filesystem.ukey(path)}".encode()).hexdigest()
        kept = cache_dir() / "shards" / f"{state}.json"
        if kept.is_file():
            return [Member(shard, *row) for row in json.loads(kept.read_text())]
        found = _walk(shard, filesystem, path)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The shard {shard} cannot be read ({type(error).__name__}: {error}); it must be a whole, uncompressed tar."
        ) from error
    rows = [(member.name, member.offset, member.size) for member in found]
    write_whole(kept, lambda partial: partial.write_text(json.dumps(rows)))
    return found


def _walk(shard: str, filesystem: fsspec.AbstractFileSystem, path: str) -> list[Member]:
    with filesystem.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        found = [Member(shard, info.name, info.offset_data, info.size) for info in tar if info.isfile()]
        end = max((member.offset + member.size for member in found), default=0)
        if end > filesystem.size(path):
            raise tarfile.ReadError("it ends in the middle of a file")
    return found
