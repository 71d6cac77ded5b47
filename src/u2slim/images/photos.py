"""Finding photos below a folder, with names for their results that do not meet."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from u2slim.errors import UserError
from u2slim.images.read import EXTENSIONS


def find_all_photos(
    sources: Sequence[str | Path], exclude: Sequence[Path] = (), beside: bool = False
) -> list[tuple[Path, Path]]:
    """(photo, name) of files, folders and patterns (`*.jpg`) together, as `find_photos` has each; none is there twice.

    What an earlier run has put beside a photo that is there itself, `NAME-cut.png` or `NAME-mask.png`, is passed over.

    Args:
        sources: a pattern is one only where no file has that name.
        exclude: see `find_photos`.
        beside: results will be beside the photos, so that only names in one folder can meet.

    Raises:
        UserError: as `find_photos`, or two photos have one name.
    """
    pairs = (pair for source in _expanded(sources) for pair in find_photos(source, exclude, ""))
    found = {photo.absolute(): (photo, name) for photo, name in pairs}
    stems = {path.with_suffix("") for path in found}
    photos = [pair for path, pair in found.items() if not _is_result(path, stems)]

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
            raise UserError(
                f"{other} and {photo} would both become {name}: cut them out by two commands, or rename one."
            )
    return photos


def _expanded(sources: Sequence[str | Path]) -> Iterator[str | Path]:
    for source in sources:
        path = Path(source).expanduser()
        if path.exists() or path.is_symlink() or not glob.has_magic(str(path)):
            yield source
        elif found := sorted(glob.glob(str(path), recursive=True)):
            yield from found
        else:
            raise UserError(f"No photo or folder matches {source}.")


def _is_result(path: Path, stems: set[Path]) -> bool:
    return any(
        path.stem.endswith(end) and path.with_name(path.stem.removesuffix(end)) in stems for end in ("-cut", "-mask")
    )


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
        and not path.name.startswith(".")
        and not any(path.resolve().is_relative_to(folder) for folder in skipped)
    )
    if not photos:
        raise UserError(f"No photos under {named} (looked for {', '.join(EXTENSIONS)}).")
    whole = [photo.relative_to(source) for photo in photos]
    names, times = [path.with_suffix("") for path in whole], None
    while times is None or max(times.values()) > 1:  # one that keeps its ending may meet another without: a.jpg(.webp)
        times = Counter(names)
        names = [name if times[name] == 1 else path for name, path in zip(names, whole, strict=True)]
    return list(zip(photos, names, strict=True))
