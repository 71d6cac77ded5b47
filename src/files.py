"""Files that are whole or absent, and the folder that keeps what is worth keeping between runs."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from src.errors import UserError


def cache_dir() -> Path:
    """`$U2SLIM_CACHE`, or `u2slim` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "u2slim"
    return Path(os.environ.get("U2SLIM_CACHE", default))


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary name beside `path`, then rename: the file is whole or absent.

    Raises:
        UserError: the folder cannot be written.
    """
    partial = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); choose another folder.") from error
    finally:
        with suppress(OSError):
            partial.unlink()
