"""What was done of many photos, written down in the folder of their results, so that nothing is looked at twice.

The manifest is a folder of JSON lines, to which each run adds files of its own: any number of machines may write their
shards' results to one place at once. A file begins with what the run was; each line after that is one photo, and the
last line about a photo counts.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from types import TracebackType

from u2slim.cutout.cutter import NOTE, write_files
from u2slim.errors import UserError
from u2slim.remote import Place, RemoteFile

FOLDER = "manifest"  # below that of the results
ENDING = ".jsonl"
# A store cannot append to a file: there each part has so many photos, or those of so many seconds.
PHOTOS, SECONDS = 1000, 20


@dataclass(frozen=True)
class Shard:
    """One of `count` disjoint parts of any photos, `index` from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, key: str) -> bool:
        """Whether a photo is in it, by its path below what was asked for: other photos make no difference."""
        digest = blake2b(os.fsencode(key), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.index - 1


class Manifest:
    """Which photos were done or have failed, by the names of their results.

    Args:
        output: the folder of the results.
        settings: the same for runs that make the same of a photo.
        told: what else to say of this run at the beginning of each file.
        label: a part of the files' names.

    Raises:
        UserError: it cannot be read or written.
    """

    def __init__(self, output: Place, settings: str, told: Mapping[str, object], label: str = ""):
        self.folder = output / FOLDER
        self._note = output / NOTE  # by which the results are known when photos are looked for
        self._done: dict[str, str] = {}  # versions
        run = 1  # rather than a time, as machines' clocks differ
        for name, text in _texts(self.folder):
            run = max(run, 1 + int(name[:6])) if name[:6].isdecimal() else run
            self._read(text, settings)
        self._head = json.dumps({"run": run, **told, "settings": settings}) + "\n"
        self._name = "-".join(filter(None, (f"{run:06d}", label, os.urandom(4).hex())))
        self._lock, self._lines, self._parts, self._since = Lock(), list[str](), 0, time.monotonic()

    def is_done(self, name: Path, version: str) -> bool:
        """Whether this version of a photo was done, with the same settings."""
        return self._done.get(name.as_posix()) == version

    def add(self, photo: Place, name: Path, version: str, why_not: str | None) -> None:
        """Write down that a photo was done, or why not.

        Raises:
            UserError: it cannot be written.
        """
        told = {"photo": str(photo), "name": name.as_posix(), "version": version}
        told |= {"status": "done"} if why_not is None else {"status": "failed", "reason": why_not}
        with self._lock:
            self._lines.append(json.dumps(told) + "\n")
            if isinstance(self.folder, Path) or len(self._lines) >= PHOTOS or time.monotonic() - self._since >= SECONDS:
                self._write()

    def __enter__(self) -> "Manifest":
        """Write how it begins, before any work is done: a place that takes nothing is told of at once."""
        self._write()
        if not (isinstance(self._note, Path) and self._note.is_file()):
            write_files([self._note], [b"see manifest\n"])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._lines:
            self._write()

    def _write(self) -> None:
        lines = "".join(self._lines)
        if isinstance(self.folder, RemoteFile):
            part = self.folder / f"{self._name}-{self._parts:06d}{ENDING}"
            part.write_bytes((self._head + lines).encode("ascii"))
        else:
            path = self.folder / f"{self._name}{ENDING}"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="ascii") as file:
                    file.write(lines if self._parts else self._head + lines)
            except OSError as error:
                raise UserError(
                    f"{path} cannot be written ({error.strerror or error}); choose another folder."
                ) from error
        self._lines.clear()
        self._parts, self._since = self._parts + 1, time.monotonic()

    def _read(self, text: str, settings: str) -> None:
        """Heed a file of an earlier run, of which the last line may be torn, as by a kill."""
        is_same = False
        for line in text.splitlines():
            try:
                told = json.loads(line)
                if "settings" in told:
                    is_same = told["settings"] == settings
                elif is_same and told["status"] == "done":
                    self._done[told["name"]] = told["version"]
                else:
                    self._done.pop(told["name"], None)
            except (ValueError, TypeError, KeyError):
                continue


def there_is_one(output: Path) -> bool:
    """Whether a folder of results has a manifest."""
    return (output / FOLDER).is_dir()


def _texts(folder: Place) -> Iterator[tuple[str, str]]:
    """Names and texts of the files of earlier runs, in their order."""
    if isinstance(folder, RemoteFile):
        yield from folder.texts(ENDING)
        return
    try:
        for path in sorted(folder.glob(f"*{ENDING}")):
            yield path.name, path.read_text("ascii", "replace")
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error}).") from error
