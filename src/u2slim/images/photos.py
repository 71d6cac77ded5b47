"""Finding photos below a folder, with names for their results that do not meet."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from u2slim.errors import UserError
from u2slim.images.read import EXTENSIONS


def find_all_photos(sources: Sequence[str | Path], exclude: Sequence[Path] = ()) -> list[tuple[Path, Path]]:
    """(photo, name) of files and folders together, as `find_photos` has each; none is there twice.

    Raises:
        UserError: as `find_photos`, or two photos have one name.
    """
    pairs = (pair for source in sources for pair in find_photos(source, exclude, ""))
    found = {photo.absolute(): (photo, name) for photo, name in pairs}
    names: dict[Path, Path] = {}
    for photo, name in found.values():
        if name in names:
            raise UserError(
                f"{names[name]} and {photo} would both become {name}: cut them out by two commands, or rename one."
            )
        names[name] = photo
    return list(found.values())


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
