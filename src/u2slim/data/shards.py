"""Pairs inside tar shards, read in place: local or behind any address that fsspec knows.

A shard is an uncompressed tar in webdataset's convention: `NAME.image.jpg` and `NAME.mask.png` (any extension that
images may have) make the pair NAME. A member is read by its position, so that every sample of the stream stays
addressed; only the tar headers are walked, once.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import fsspec

from u2slim.errors import UserError
from u2slim.files import cache_dir, write_whole


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
        filesystem, path = _connected(self.shard, os.getpid())
        try:
            data = filesystem.cat_file(path, start=self.offset, end=self.offset + self.size)
        except Exception as error:  # each file system has errors of its own
            raise OSError(f"{type(error).__name__}: {error}") from error
        if len(data) > self.size:
            raise OSError("the server sends the whole shard where a part is asked for (HTTP Range)")
        if len(data) < self.size:
            raise OSError(f"{len(data)} of {self.size} bytes: the shard is cut short")
        return data


def expand(patterns: str | Sequence[str]) -> list[str]:
    """The shards that local paths, addresses, or globs (`*`) of either name; of these only a glob may find none.

    Raises:
        UserError: a listing cannot be had.
    """
    found = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if "*" not in pattern:
            found.append(pattern)
            continue
        try:
            filesystem, path = _connected(pattern, os.getpid())
            matches = sorted(filesystem.glob(path))
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
        if "://" not in shard:
            return _walk(shard)
        kept = cache_dir() / "shards" / f"{hashlib.sha256(f'{shard} {state(shard)}'.encode()).hexdigest()}.json"
        with suppress(OSError, ValueError):
            return [Member(shard, *row) for row in json.loads(kept.read_text())]
        found = _walk(shard)
    except Exception as error:  # each file system has errors of its own
        raise UserError(
            f"The shard {shard} cannot be read ({type(error).__name__}: {error}); it must be a whole, uncompressed tar."
        ) from error
    rows = [(member.name, member.offset, member.size) for member in found]
    with suppress(UserError):  # the next start will walk again
        write_whole(kept, lambda partial: partial.write_text(json.dumps(rows)))
    return found


def state(shard: str) -> str:
    """What changes with the shard: its size and times, or what a server says of it."""
    filesystem, path = _connected(shard, os.getpid())
    # Not `ukey`, which takes files behind HTTP for unchanging; and a redirected address may differ each time.
    # upstream: not reported as far as known (seen with fsspec 2026.9); drop when HTTPFileSystem.ukey looks at headers
    return str(sorted((name, value) for name, value in filesystem.info(path).items() if name != "url"))


def _walk(shard: str) -> list[Member]:
    filesystem, path = _connected(shard, os.getpid())
    with filesystem.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        found = [Member(shard, info.name, info.offset_data, info.size) for info in tar if info.isfile()]
        # A header that is cut off or damaged ends the walk, too.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"it breaks off or is damaged at byte {tar.offset}")
    return found


@cache
def _connected(address: str, process: int) -> tuple[fsspec.AbstractFileSystem, str]:
    """A file system of this process, and the path there.

    None survives a fork. The parent's is kept in the child all the same: its end there would cut the parent off from
    its connections, which would then wait for their answers for ever.
    """
    return fsspec.url_to_fs(address)
