"""Finding photos below a folder, with names for their results that do not meet."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from u2slim.errors import UserError
from u2slim.files import user_path
from u2slim.images.read import EXTENSIONS


class Found(NamedTuple):
    """What there is to cut out.

    Args:
        photos: each with the name of its results.
        results: of an earlier run, beside photos.
        others: files below the folders that are no photos.
    """

    photos: list[tuple[Path, Path]]
    results: list[Path]
    others: list[Path]


def find_all_photos(sources: Sequence[str | Path], exclude: Sequence[Path] = (), beside: bool = False) -> Found:
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
    others: dict[Path, None] = {}
    empty = None
    for source in sources:
        try:
            here, no_photos = _found(source, exclude, "")
            for photo, name in here:
                found.setdefault(photo.absolute(), (photo, name))
            others |= dict.fromkeys(no_photos)
        except NoPhotos as error:  # which is nothing to speak of where others have some
            empty = error
    if empty and not found:
        raise empty
    originals = {path.with_suffix("") for path in found} | set(found)
    results = [found.pop(path)[0] for path in [*found] if _is_result(path, originals)]
    photos = list(found.values())

    def key(photo: Path, name: Path) -> Path:
        return photo.absolute().with_name(name.name) if beside else name

    # Names that meet get longer: by the folders that tell them apart, then by their endings.
    for ending in (lambda photo: photo.with_suffix(""), lambda photo: photo):
        times = Counter(key(*pair) for pair in photos)
        if max(times.values()) > 1:
            top = os.path.commonpath([photo.absolute().parent for photo, _ in photos])
            photos = [
                (photo, name if times[key(photo, name)] == 1 else ending(photo.absolute()).relative_to(top))
                for photo, name in photos
            ]
    taken: dict[Path, Path] = {}
    for photo, name in photos:
        other = taken.setdefault(key(photo, name), photo)
        if other is not photo:
            raise UserError(f"{other} and {photo} would both become {name}: rename one, or use another place for it.")
    return Found(photos, results, list(others))


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
        UserError: there is nothing at `source`, or no photo in it.
    """
    return _found(source, exclude, setting)[0]


def _found(source: str | Path, exclude: Sequence[Path], setting: str) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """The same, and what else there is below a folder."""
    source = user_path(source)
    named = f"{setting}={source}" if setting else str(source)
    if not source.exists():
        raise UserError(f"No photo or folder at {named}.")
    if source.is_file() or source.is_fifo():  # as that of a shell's <(command)
        return [(source, Path(source.stem))], []
    if not source.is_dir():
        raise UserError(f"{named} is a device or a socket, not a photo.")
    skipped = [folder.resolve() for folder in exclude]
    photos, others = [], []
    for path in sorted(source.rglob("*")):
        is_dangling = path.is_symlink() and not path.exists()
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(source).parts):
            continue
        if any(path.resolve().is_relative_to(folder) for folder in skipped):
            continue
        is_photo = path.suffix.lower() in EXTENSIONS and (path.is_file() or is_dangling)  # the latter is told of
        (photos if is_photo else others).append(path)
    if not photos:
        raise NoPhotos(f"No photos under {named} (looked for {', '.join(EXTENSIONS)}){_and_not(others)}.")
    whole = [photo.relative_to(source) for photo in photos]
    names, times = [path.with_suffix("") for path in whole], None
    while times is None or max(times.values()) > 1:  # one that keeps its ending may meet another without: a.jpg(.webp)
        times = Counter(names)
        names = [name if times[name] == 1 else path for name, path in zip(names, whole, strict=True)]
    return list(zip(photos, names, strict=True)), others


def _and_not(others: Sequence[Path]) -> str:
    return f"; there is {others_named(others)}" if others else ""


def others_named(others: Sequence[Path], most: int = 5) -> str:
    """How many files that are no photos there are of each kind, the most frequent first."""
    kinds = Counter(path.suffix.lower() if path.is_file() else "pipe, socket or device" for path in others)
    told = [f"{times} {kind or 'without an ending'}" for kind, times in kinds.most_common(most)]
    left = kinds.total() - sum(times for _, times in kinds.most_common(most))
    return ", ".join([*told, f"{left} of other kinds"] if left else told)
