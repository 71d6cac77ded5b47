"""Cutting out what is put into a folder, as soon as it is whole."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from watchfiles import watch as changes_in

from u2slim.cutout.batch import Named, Told, cut_all, earlier_results, state
from u2slim.cutout.cutter import Cutter
from u2slim.errors import UserError
from u2slim.files import real_path
from u2slim.images.photos import NoPhotos, closed_sentence, find_all_photos
from u2slim.remote import Place

QUIET = 1000  # ms without a change, after which a file that is copied in is taken to be whole


def watch(cutter: Cutter, folder: Path, workers: int, report: Callable[[Path, str], object]) -> NoReturn:
    """Cut out the photos in the folder and those that come, until a KeyboardInterrupt.

    Photos that an earlier run has done with the same settings are passed over, and so are those that failed, until
    they change.

    Args:
        report: is told of each photo, with an empty text or the reason why there is no result.

    Raises:
        UserError: the folder is gone, or its results cannot be written.
    """
    failed: dict[Path, tuple[int, int]] = {}
    busy: dict[Path, float] = {}  # what has changed, and when
    waiting = True  # for what is there already, in which a copy may be on its way, too
    with suppress(FileNotFoundError):  # as watchfiles has it where the folder is gone before it looks
        for changes in changes_in(folder, debounce=QUIET, step=QUIET // 4, rust_timeout=QUIET, yield_on_timeout=True):
            now = time.monotonic()
            busy |= {real_path(path): now for _, path in changes}
            busy = {path: then for path, then in busy.items() if now - then < QUIET / 1000}
            if waiting or changes or not folder.is_dir():
                _look(cutter, folder, workers, failed, busy, report)
                waiting = bool(busy)
    raise _gone(folder)


def _look(
    cutter: Cutter,
    folder: Path,
    workers: int,
    failed: dict[Path, tuple[int, int]],
    busy: Collection[Path],
    report: Callable[[Path, str], object],
) -> None:
    def told(photo: Path, paths: list[Place], made: Told | str | None) -> None:
        if isinstance(made, str):
            failed[photo] = before[photo]
        if made is not None:
            report(photo, made if isinstance(made, str) else "")

    found, closed = _photos(cutter, folder)
    for one in closed:
        if one not in failed:
            failed[one] = 0, 0
            report(one, closed_sentence(one))
    before = {photo: state(photo) for photo, _ in found}  # not after reading it, when it may be another already
    photos = [(photo, name) for photo, name in found if failed.get(photo) != before[photo]]
    photos = [(photo, name) for photo, name in photos if not busy or real_path(photo) not in busy]
    cut_all(cutter, str(real_path(folder)), photos, workers, report=told, progress=False)


def _photos(cutter: Cutter, folder: Path) -> tuple[list[Named[Path]], list[Path]]:
    assert isinstance(cutter.output, Path)
    try:
        found = find_all_photos([folder], earlier_results([folder], cutter.output))
        return found.photos, found.closed
    except NoPhotos:  # yet
        return [], []
    except UserError as error:
        raise error if folder.is_dir() else _gone(folder) from error


def _gone(folder: Path) -> UserError:
    return UserError(f"The folder {folder} is gone; make it again, and start this command again.")
