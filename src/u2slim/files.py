"""Files that are whole or absent, and the folder that keeps what is worth keeping between runs."""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from u2slim.errors import UserError


def user_path(path: str | Path) -> Path:
    """A path as users give it: `~` is their home, but the file `~draft.jpg` is called so."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no user of the name
        return Path(path)


def real_path(path: str | Path) -> Path:
    """As `Path.resolve`, also of links that lead in a circle, at which that fails before Python 3.13."""
    return Path(os.path.realpath(path))


class RealPaths:
    """`real_path` of very many files, of whose folders each is looked up once."""

    def __init__(self) -> None:
        self._folders: dict[Path, Path] = {}

    def __call__(self, path: Path) -> Path:
        if path.name in ("", "..") or path.is_symlink():
            return real_path(path)
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = real_path(folder)
        return self._folders[folder] / path.name


def cache_dir() -> Path:
    """`$U2SLIM_CACHE`, or `u2slim` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "u2slim"
    return Path(os.environ.get("U2SLIM_CACHE", default))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, then rename: the file is whole or absent.

    Raises:
        UserError: the folder cannot be written.
    """
    # As short a name as any, since `path` may have the longest that the file system takes.
    partial = path.with_name(f".{os.getpid()}.part.{crc32(os.fsencode(path.name)):08x}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); choose another folder.") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_bytes_whole(path: Path, data: bytes) -> None:
    """The same with bytes that are at hand."""
    write_whole(path, lambda partial: partial.write_bytes(data))


def free_bytes(path: Path) -> int:
    """How much more can be written at a path, whose folders may still have to be made."""
    path = path.absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def file_digest(path: Path, algorithm: str) -> str:
    """A file's hash in hexadecimal, by an algorithm that hashlib knows."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def refuse_web_page(path: Path, instead_of: str) -> None:
    """Raise UserError for a file that is a web page and should be something else."""
    if is_web_page(path):
        raise UserError(f"{path} is a web page, not {instead_of}: the download failed. Delete it and download again.")


def is_web_page(path: Path) -> bool:
    """Whether a file is what servers send in place of a download."""
    with path.open("rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))
