"""Cutting out what is put into a folder, as soon as it is whole."""

from collections.abc import Iterator
from pathlib import Path

from watchfiles import watch as changes_in

from u2slim.cutout.batch import Named, cut_all, earlier_results
from u2slim.cutout.cutter import Cutter, Facts
from u2slim.errors import UserError
from u2slim.images.photos import find_photos

QUIET = 1000  # ms without a change, after which a file that is copied in is taken to be whole


def watch(cutter: Cutter, folder: Path, workers: int) -> Iterator[tuple[Path, str]]:
    """Each photo in the folder as it has been cut out, with an empty text or the reason why there is no result.

    Photos that an earlier run has done with the same settings are passed over, and so are those that failed, until
    they change.
    """
    failed: dict[Path, tuple[int, int]] = {}
    yield from _look(cutter, folder, workers, failed)
    waiting = False
    for changes in changes_in(folder, debounce=QUIET, step=QUIET // 4, rust_timeout=QUIET, yield_on_timeout=True):
        if changes:
            waiting = True
        elif waiting:
            waiting = False
            yield from _look(cutter, folder, workers, failed)


def _look(
    cutter: Cutter, folder: Path, workers: int, failed: dict[Path, tuple[int, int]]
) -> Iterator[tuple[Path, str]]:
    made: list[tuple[Path, str]] = []

    def report(photo: Path, paths: list[Path], facts: Facts | str) -> None:
        if isinstance(facts, str):
            failed[photo] = _state(photo)
        made.append((photo, facts if isinstance(facts, str) else ""))

    photos = [pair for pair in _photos(cutter, folder) if failed.get(pair[0]) != _state(pair[0])]
    cut_all(cutter, str(folder.resolve()), photos, workers, report=report, progress=False)
    yield from made


def _photos(cutter: Cutter, folder: Path) -> list[Named]:
    try:
        return find_photos(folder, earlier_results([folder], cutter.output))
    except UserError:  # none is there yet
        return []


def _state(photo: Path) -> tuple[int, int]:
    try:
        stat = photo.stat()
    except OSError:  # gone by now
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
