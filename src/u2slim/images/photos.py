"""Finding photos below a folder, with names for their results that do not meet."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from u2slim.errors import UserError
from u2slim.files import RealPaths, real_path, user_path
from u2slim.images.read import EXTENSIONS
from u2slim.remote import Place, RemoteFile

log = logging.getLogger(__name__)
P = TypeVar("P", bound=Place)


class Found(NamedTuple, Generic[P]):
    """What there is to cut out.

    Args:
        photos: each with the name of its results.
        results: of an earlier run, beside photos.
        others: files below the folders that are no photos.
        linked: links to folders below the folders, which are not followed.
        closed: folders below the folders that cannot be read.
    """

    photos: list[tuple[P, Path]]
    results: list[P]
    others: list[P]
    linked: list[P]
    closed: list[P]


def find_all_photos(sources: Sequence[str | Path], exclude: Sequence[Path] = (), beside: bool = False) -> Found[Path]:
    """(photo, name) of files and folders together, as `find_photos` has each; none is there twice.

    What an earlier run has put beside a photo that is there itself, `NAME-cut.png` or `NAME-mask.png`, is no photo.

    Args:
        sources: with patterns already `expanded`.
        exclude: see `find_photos`.
        beside: results will be beside the photos, so that only names in one folder can meet.

    Raises:
        UserError: as `find_photos`, or two photos have one name.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    others, linked, closed = (dict[Path, None]() for _ in range(3))
    empty = None
    for source in sources:
        try:
            here = _found(source, exclude, "")
            for photo, name in here.photos:
                found.setdefault(photo.absolute(), (photo, name))
            others |= dict.fromkeys(here.others)
            linked |= dict.fromkeys(here.linked)
            closed |= dict.fromkeys(here.closed)
        except NoPhotos as error:  # which is nothing to speak of where others have some
            empty = error
    if empty and not found:
        raise empty
    originals = {path.with_suffix("") for path in found} | set(found)
    results = [found.pop(path)[0] for path in [*found] if _is_result(path, originals)]
    photos = list(found.values())

    @cache
    def top() -> str:
        return os.path.commonpath([photo.absolute().parent for photo, _ in photos])

    named = told_apart(
        photos,
        lambda photo, name: photo.absolute().with_name(name.name) if beside else name,
        lambda photo: photo.absolute().relative_to(top()),
    )
    return Found(named, results, list(others), list(linked), list(closed))


def told_apart(
    photos: Sequence[tuple[P, Path]], key: Callable[[P, Path], Path], whole: Callable[[P], Path]
) -> list[tuple[P, Path]]:
    """The same photos, of which those whose names would meet have longer ones.

    Args:
        photos: each with its name.
        key: of photo and name, the same where results would meet.
        whole: the path that tells a photo from all others, with its ending.

    Raises:
        UserError: two have one name even so.
    """
    named = list(photos)
    for ending in (True, False):  # by the folders that tell them apart, then by their endings, too
        times = Counter(key(*pair) for pair in named)
        if max(times.values(), default=0) > 1:
            named = [
                (photo, name if times[key(photo, name)] == 1 else _longer(whole(photo), ending))
                for photo, name in named
            ]
    taken: dict[Path, P] = {}
    for photo, name in named:
        other = taken.setdefault(key(photo, name), photo)
        if other is not photo:
            raise UserError(
                f"{other} and {photo} would both become {name}: rename one, or cut it out into another folder."
            )
    return named


def _longer(whole: Path, without_ending: bool) -> Path:
    return whole.with_suffix("") if without_ending else whole


def expanded(sources: Sequence[str]) -> list[str]:
    """What is named, with each pattern (`*.jpg`) replaced by what matches it; a file of that very name is none.

    Raises:
        UserError: nothing matches, or there is no name at all.
    """
    named = []
    for source in sources:
        path = user_path(source)
        if not source:
            raise UserError("One of the inputs has no name: give photos or folders, . for the one you are in.")
        if path.exists() or path.is_symlink() or not glob.has_magic(str(path)):
            named.append(source)
            continue
        matches = sorted(glob.glob(str(path), recursive=True))
        named += matches
        if not matches:
            raise UserError(f"No photo or folder matches {source}.")
    return named


def _is_result(path: Path, originals: set[Path]) -> bool:
    """Whether it is called as the result of one of these, whose names are with and without their endings."""
    photo, _, kind = path.stem.rpartition("-")
    return kind in ("cut", "mask") and bool(photo) and path.with_name(photo) in originals


class NoPhotos(UserError):
    """A folder without any."""


def find_photos(source: str | Path, exclude: Sequence[Path] = (), setting: str = "input") -> list[tuple[Path, Path]]:
    """(photo, relative name without its ending) for a file, or for all photos below a folder.

    Photos that differ only in their ending keep it in the name, so that no result overwrites another. What lies
    below the folders `exclude` is passed over: the results of an earlier run are no photos. Errors call it `setting`,
    unless that is empty.

    Raises:
        UserError: there is nothing at `source`, no photo in it, or a folder below it cannot be read.
    """
    found = _found(source, exclude, setting)
    if found.closed:
        raise UserError(closed_sentence(found.closed[0]))
    for link in found.linked:
        log.warning("%s is a link to a folder, and is not followed", link)
    return found.photos


def keys_below(sources: Iterable[str | Path], photos: Iterable[Path]) -> dict[Path, str]:
    """Each photo's path below the source that it was found in, without its ending; of a file that was named its name.

    Unlike the names of results these do not depend on which other photos there are.
    """
    folders = {user_path(source) for source in sources}
    keys = {}
    for photo in photos:
        folder = next((parent for parent in photo.parents if parent in folders), photo.parent)
        keys[photo] = photo.relative_to(folder).with_suffix("").as_posix()
    return keys


def closed_sentence(folder: Place) -> str:
    """What is said of a folder that cannot be read, or of a file in a store that has no name for results."""
    if isinstance(folder, RemoteFile):
        return f"{folder}: a file cannot have a name with an empty part, . or .. in it; rename it."
    return f"{folder} is a folder that cannot be read; allow yourself to read and enter it."


def _found(source: str | Path, exclude: Sequence[Path], setting: str) -> Found[Path]:
    """The same, and what else there is below a folder."""
    source = user_path(source)
    named = f"{setting}={source}" if setting else str(source)
    if not source.exists():
        raise UserError(f"No photo or folder at {named}.")
    if source.is_file() or source.is_fifo():  # as that of a shell's <(command)
        return Found([(source, Path(source.stem))], [], [], [], [])
    if not source.is_dir():
        raise UserError(f"{named} is a device or a socket, not a photo.")
    skipped, real = {real_path(folder) for folder in exclude}, RealPaths()
    photos: list[Path] = []
    others: list[Path] = []
    files, linked, closed = _below(source)
    for path in files:
        if skipped and not skipped.isdisjoint(real(path).parents):
            continue
        is_dangling = path.is_symlink() and not path.exists()
        is_photo = path.suffix.lower() in EXTENSIONS and (path.is_file() or is_dangling)  # the latter is told of
        (photos if is_photo else others).append(path)
    inside = [real_path(source), *skipped]  # what is found anyway, and what shall not be
    linked = [link for link in linked if not any(real_path(link).is_relative_to(folder) for folder in inside)]
    if not photos:
        if closed:
            raise UserError(closed_sentence(closed[0]))
        if linked:
            raise NoPhotos(f"No photos under {named} but in {linked[0]}, a link to a folder; name that itself.")
        raise NoPhotos(f"No photos under {named} (looked for {', '.join(EXTENSIONS)}){_and_not(others)}.")
    whole = [photo.relative_to(source) for photo in photos]
    return Found(list(zip(photos, names_in_folder(whole), strict=True)), [], others, linked, closed)


def names_in_folder(whole: Sequence[Path]) -> list[Path]:
    """Names for the results of photos by their paths below a folder, which are all different."""
    names, times = [path.with_suffix("") for path in whole], None
    while times is None or max(times.values(), default=0) > 1:  # one that keeps its ending may meet another without
        times = Counter(names)
        names = [name if times[name] == 1 else path for name, path in zip(names, whole, strict=True)]
    return names


def _below(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """All files below a folder that are not hidden, and of the folders the links and those that cannot be read."""
    files: list[Path] = []
    linked: list[Path] = []
    closed: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        here = Path(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked += [here / name for name in folders if (here / name).is_symlink()]
        files += [here / name for name in names if not name.startswith(".")]
    return sorted(files), sorted(linked), sorted(closed)


def _and_not(others: Sequence[Path]) -> str:
    return f"; there is {others_named(others)}" if others else ""


def others_named(others: Sequence[Place], most: int = 5) -> str:
    """How many files that are no photos there are of each kind, the most frequent first."""
    kinds = Counter(
        path.suffix.lower() if isinstance(path, RemoteFile) or path.is_file() else "pipe, socket or device"
        for path in others
    )
    told = [f"{times} {kind or 'without an ending'}" for kind, times in kinds.most_common(most)]
    left = kinds.total() - sum(times for _, times in kinds.most_common(most))
    return ", ".join([*told, f"{left} of other kinds"] if left else told)
