"""Files in stores that fsspec knows: `s3://bucket/a.jpg`, `gs://…`, `sftp://…`, `memory://…`.

fsspec is imported when the first address is opened, and no earlier.
"""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

from u2slim.errors import Unreadable, UserError, missing_extra

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+(://|::)", re.IGNORECASE)
_OWN_FOLDER = ("file://", "local://")
_TOGETHER = 16  # small files that are read at once
# Where an upload is whole or absent by itself; some of them have a `mv`, which copies.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "memory"}


class NotWritten(UserError):
    """A file that a store did not take."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file or folder in a store, as far as photos and results need it to be like a `Path`.

    Args:
        fs: the store.
        path: as the store has it, without the protocol.
        version: what its listing says that tells whether it has changed; empty: not listed.
    """

    fs: "AbstractFileSystem"
    path: str
    version: str = field(default="", compare=False)

    def __str__(self) -> str:
        return str(self.fs.unstrip_protocol(self.path))

    def __truediv__(self, below: str | PurePath) -> "RemoteFile":
        below = below.as_posix() if isinstance(below, PurePath) else below
        return RemoteFile(self.fs, f"{self.path.rstrip('/')}/{below}")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def with_name(self, name: str) -> "RemoteFile":
        return RemoteFile(self.fs, self.path[: len(self.path) - len(self.name)] + name)

    def read_bytes(self) -> bytes:
        """All of it.

        Raises:
            Unreadable: it is gone, or the store does not give it.
        """
        try:
            data: bytes = self.fs.cat_file(self.path)
        except FileNotFoundError as error:
            raise Unreadable(f"{self}: no such file.") from error
        except Exception as error:  # each store has errors of its own
            raise Unreadable(f"{self} cannot be read ({reason(error)}).") from error
        return data

    def write_bytes(self, data: bytes) -> None:
        """Write it, whole or not at all.

        Raises:
            NotWritten: the store does not take it.
        """
        try:
            if _takes_whole_files(self.fs):
                self.fs.pipe_file(self.path, data)
                return
            partial = self.with_name(f".{os.getpid()}.part.{crc32(self.name.encode()):08x}{self.suffix}")
            self.fs.makedirs(partial.path.rpartition("/")[0], exist_ok=True)
            try:
                self.fs.pipe_file(partial.path, data)
                self.fs.mv(partial.path, self.path)
            except BaseException:
                with suppress(Exception):
                    self.fs.rm_file(partial.path)
                raise
        except Exception as error:
            raise NotWritten(f"{self} cannot be written ({reason(error)}).") from error

    def texts(self, ending: str) -> Iterator[tuple[str, str]]:
        """Name and text of each file of an ending right inside of it, by name.

        Raises:
            UserError: the store does not list or give them.
        """
        with listing(str(self)), ThreadPoolExecutor(_TOGETHER) as pool:
            self.fs.invalidate_cache(self.path)
            with suppress(FileNotFoundError):
                names = sorted(name for name in self.fs.ls(self.path, detail=False) if name.endswith(ending))
                for name, data in zip(names, pool.map(self.fs.cat_file, names), strict=True):
                    yield name.rpartition("/")[2], data.decode("ascii", "replace")


Place: TypeAlias = Path | RemoteFile


def is_address(text: str) -> bool:
    """Whether it is an address in a store, and no file here that happens to be called so."""
    return bool(_ADDRESS.match(text)) and not os.path.lexists(text)


def without_protocol(text: str) -> str:
    """A file's path where it is an address of one on this machine, `file:///home/me/a.jpg`; others as they are."""
    start = next((start for start in _OWN_FOLDER if text.lower().startswith(start) and is_address(text)), "")
    return text[len(start) :]


def open_address(address: str) -> RemoteFile:
    """What is, or may come to be, at an address.

    Raises:
        UserError: fsspec, or the package for this kind of store, is not installed; or fsspec cannot make sense of it.
    """
    try:
        import fsspec
    except ImportError as error:
        raise missing_extra(address, "fsspec", "remote") from error
    try:
        fs, path = fsspec.url_to_fs(address)
    except ImportError as error:
        package = (getattr(error.__cause__ or error, "name", None) or "").partition(".")[0]
        raise UserError(
            f"{address} needs {package}: pip install {package}." if package else f"{address}: {reason(error)}."
        ) from error
    except Exception as error:  # as each store has it: a protocol or a host that is not known, no credentials
        raise UserError(f"{address} cannot be opened ({reason(error)}).") from error
    return RemoteFile(fs, path)


@contextmanager
def listing(address: str) -> Iterator[None]:
    """Have whatever goes wrong while a store is asked end in a sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each store has errors of its own
        raise UserError(
            f"{address} cannot be listed ({reason(error)}); see that it is there and open to you."
        ) from error


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:300].rstrip(".")
    return text or type(error).__name__


def _takes_whole_files(fs: "AbstractFileSystem") -> bool:
    """Whether there is no half of a file to be seen while it is sent; elsewhere it is renamed when it is there."""
    from fsspec import AbstractFileSystem

    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    return bool(protocols & _OBJECT_STORES) or type(fs).mv is AbstractFileSystem.mv
