"""Cutting out what is put into a folder, as soon as it is whole."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from watchfiles import watch as changes_in

from u2slim.cutout.batch import Named, cut_all, earlier_results
from u2slim.cutout.cutter import Cutter, Made
from u2slim.errors import UserError
from u2slim.images.photos import NoPhotos, find_all_photos

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
    _look(cutter, folder, workers, failed, report)
    waiting = False
    with suppress(FileNotFoundError):  # as watchfiles has it where the folder is gone before it looks
        for changes in changes_in(folder, debounce=QUIET, step=QUIET // 4, rust_timeout=QUIET, yield_on_timeout=True):
            if changes:
                waiting = True
            elif waiting or not folder.is_dir():
                waiting = False
                _look(cutter, folder, workers, failed, report)
    raise _gone(folder)


def _look(
    cutter: Cutter,
    folder: Path,
    workers: int,
    failed: dict[Path, tuple[int, int]],
    report: Callable[[Path, str], object],
) -> None:
    def told(photo: Path, paths: list[Path], made: Made | str | None) -> None:
        if isinstance(made, str):
            failed[photo] = before[photo]
        if made is not None:
            report(photo, made if isinstance(made, str) else "")

    found = _photos(cutter, folder)
    before = {photo: _state(photo) for photo, _ in found}  # not after reading it, when it may be another already
    photos = [(photo, name) for photo, name in found if failed.get(photo) != before[photo]]
    cut_all(cutter, str(folder.resolve()), photos, workers, report=told, progress=False)


def _photos(cutter: Cutter, folder: Path) -> list[Named]:
    try:
        return find_all_photos([folder], earlier_results([folder], cutter.output))[0]
    except NoPhotos:  # yet
        return []
    except UserError as error:
        raise error if folder.is_dir() else _gone(folder) from error


def _gone(folder: Path) -> UserError:
    return UserError(f"The folder {folder} is gone; make it again, and start this command again.")


def _state(photo: Path) -> tuple[int, int]:
    try:
        stat = photo.stat()
    except OSError:  # gone by now
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
