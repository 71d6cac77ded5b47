"""Finding photos below a folder, with names for their results that do not meet."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from u2slim.errors import UserError
from u2slim.images.read import EXTENSIONS


def find_all_photos(
    sources: Sequence[str | Path], exclude: Sequence[Path] = (), beside: bool = False
) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """(photo, name) of files and folders together, as `find_photos` has each; none is there twice.

    What an earlier run has put beside a photo that is there itself, `NAME-cut.png` or `NAME-mask.png`, is no photo; it
    comes as the second list.

    Args:
        sources: with patterns already `expanded`.
        exclude: see `find_photos`.
        beside: results will be beside the photos, so that only names in one folder can meet.

    Raises:
        UserError: as `find_photos`, or two photos have one name.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    empty = None
    for source in sources:
        try:
            for photo, name in find_photos(source, exclude, ""):
                found.setdefault(photo.absolute(), (photo, name))
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
    return photos, results


def expanded(sources: Sequence[str]) -> list[str]:
    """What is named, with each pattern (`*.jpg`) replaced by what matches it; a file of that very name is none.

    Raises:
        UserError: nothing matches, or there is no name at all.
    """
    named = []
    for source in sources:
        path = Path(source).expanduser()
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
    source = Path(source).expanduser()
    named = f"{setting}={source}" if setting else str(source)
    if not source.exists():
        raise UserError(f"No photo or folder at {named}.")
    if source.is_file():
        return [(source, Path(source.stem))]
    skipped = [folder.resolve() for folder in exclude]
    photos = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and (path.is_file() or (path.is_symlink() and not path.exists()))  # a link that leads nowhere is told of
        and not any(path.resolve().is_relative_to(folder) for folder in skipped)
    )
    if not photos:
        raise NoPhotos(f"No photos under {named} (looked for {', '.join(EXTENSIONS)}).")
    whole = [photo.relative_to(source) for photo in photos]
    names, times = [path.with_suffix("") for path in whole], None
    while times is None or max(times.values()) > 1:  # one that keeps its ending may meet another without: a.jpg(.webp)
        times = Counter(names)
        names = [name if times[name] == 1 else path for name, path in zip(names, whole, strict=True)]
    return list(zip(photos, names, strict=True))
