"""Download a published set and put it in place: python -m u2slim.data.fetch set=ecssd root=DIR."""

import logging
import shutil
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from u2slim.cli import research_command
from u2slim.data.archive import compare, download, unpack
from u2slim.data.catalog import get_data_set, published_names
from u2slim.data.data_set import Archive, DataSet
from u2slim.data.pairs import find_pairs
from u2slim.errors import UserError
from u2slim.files import user_path

log = logging.getLogger(__name__)

DOWNLOADS = ".downloads"  # under the data root


@research_command("fetch")
def main(cfg: DictConfig) -> None:
    names = _names(cfg.set)
    failed = []
    for name in names:
        try:
            log.info("%s", fetch(name, cfg.root, cfg.keep, cfg.verify))
        except UserError as error:
            if len(names) == 1:
                raise
            failed.append(get_data_set(name).title)
            log.error("%s", error)
    if failed:
        raise UserError(f"{len(failed)} of {len(names)} sets are not there, see above: {', '.join(failed)}.")


def _names(wanted: str | ListConfig | None) -> list[str]:
    known = published_names()
    names = known if wanted == "all" else [wanted] if isinstance(wanted, str) else list(wanted or ())
    if not names or any(name not in known for name in names):
        raise UserError(f"Say which sets to fetch: set=NAME, set=[NAME,NAME] or set=all, of {', '.join(known)}.")
    return names


def fetch(name: str, root: str | Path, keep: bool = False, verify: bool = True) -> str:
    """Make the set's folder under `root`, whole or not at all; returns a sentence that says what is where.

    Archives are downloaded to `root/.downloads`, where a broken download continues and where archives that were
    downloaded by hand are found; they are removed in the end unless `keep`. An archive whose size or SHA-256 is not
    the reported one is refused if `verify`.

    Raises:
        UserError: a folder of that name is in the way, an archive cannot be downloaded (says what to download by
            hand and where to put it) or is refused, or what it holds is not the set.
    """
    data_set, root = get_data_set(name), user_path(root)
    pairs = find_pairs(data_set, root)
    if pairs and len(pairs) == data_set.count:
        return f"{data_set.title} is already there: {len(pairs):,} pairs under {root}."
    home = _free_home(data_set, root, pairs)
    if not data_set.archives:
        raise UserError(f"{data_set.title} cannot be fetched. {data_set.by_hand} {_where(data_set, root)}")
    downloads = root / DOWNLOADS
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        count = _fill(data_set, home, [_get(data_set, archive, root, verify) for archive in data_set.archives])
    except OSError as error:
        raise UserError(f"{root} cannot be written ({error.strerror or error}); choose another root.") from error
    if not keep:
        for archive in data_set.archives:
            (downloads / archive.name).unlink(missing_ok=True)
        if not any(downloads.iterdir()):
            downloads.rmdir()
    few = "" if count == data_set.count else f" instead of the published {data_set.count:,}"
    return f"{data_set.title}: {count:,} pairs{few} in {home}. Cite {data_set.citation} ({data_set.home_page})."


def _free_home(data_set: DataSet, root: Path, pairs: list | None) -> Path:
    """The folder to make; an error where the set or a folder of that name is already there."""
    home = root / data_set.homes[0]
    same = (path for path in (root.iterdir() if root.is_dir() else ()) if path.name.lower() == home.name.lower())
    taken = [path for path in same if not path.is_dir() or any(path.iterdir())]
    if pairs or taken:
        place = pairs[0].image if pairs else taken[0]
        raise UserError(
            f"{data_set.title} is already under {root} with {len(pairs or ()):,} of {data_set.count:,} pairs ({place}) "
            f"and is left as it is: move it away or remove it first."
        )
    return home


def _where(data_set: DataSet, root: Path) -> str:
    images, masks = (Path(root, data_set.homes[0], folder) for folder in data_set.layouts[0])
    image, mask = data_set.extensions
    return (
        f"Put its {data_set.count:,} pairs into {images}/*{image} and {masks}/*{mask}. Home page: {data_set.home_page}"
    )


def _get(data_set: DataSet, archive: Archive, root: Path, verify: bool) -> Path:
    """The archive's path, downloaded unless it is there, and compared with what is reported of it."""
    path = root / DOWNLOADS / archive.name
    if path.exists():
        log.info("%s: found %s", data_set.title, path)
    else:
        _download(data_set, archive, path)
    try:
        if verify:
            compare(path, archive.size, archive.sha256)
    except UserError as error:
        raise UserError(
            f"{error} Either the download went wrong: delete the file and try again; or {data_set.home_page} now "
            f"offers another file: take it with verify=false."
        ) from error
    return path


def _download(data_set: DataSet, archive: Archive, path: Path) -> None:
    log.info("%s: downloading %s (%s)", data_set.title, archive.name, archive.holds)
    try:
        download(archive.urls, path)
    except UserError as error:
        files = "; ".join(f"{a.name} ({a.holds}) from {' or '.join(a.urls)}" for a in data_set.archives)
        raise UserError(
            f"{archive.name} of {data_set.title} could not be downloaded: {error}. The same command continues where it "
            f"broke off. Or download by hand: {files}; home page: {data_set.home_page}. Put the files into "
            f"{path.parent} under these names and give the same command: it unpacks them without a network."
        ) from error


def _fill(data_set: DataSet, home: Path, archives: list[Path]) -> int:
    """Unpack the archives beside `home`, look for the set's pairs in there, and only then give it its name."""
    work = home.parent / DOWNLOADS / f"{data_set.name}.unpacking"
    shutil.rmtree(work, ignore_errors=True)
    inside = work / "inside"
    inside.mkdir(parents=True)
    try:
        for path in archives:
            log.info("unpacking %s (%.0f MB)", path, path.stat().st_size / 1e6)
            unpack(path, inside)
        made = work / home.name
        _content(data_set, inside).rename(made)
        pairs = _checked(data_set, work, home)
        if home.is_dir():
            home.rmdir()  # empty, or this fails
        made.rename(home)
        return len(pairs)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _content(data_set: DataSet, inside: Path) -> Path:
    """The set's own folder among what was unpacked, with the files beside it moved into it; or all of it."""
    titles = {home.split("/")[-1].lower() for home in data_set.homes}
    folder = next((p for p in sorted(inside.iterdir()) if p.is_dir() and p.name.lower() in titles), None)
    if folder is None:
        return inside
    for path in list(inside.iterdir()):
        if path.is_file() and not (folder / path.name).exists():
            path.rename(folder / path.name)
    return folder


def _checked(data_set: DataSet, work: Path, home: Path) -> list:
    folder = work / home.name
    try:
        pairs = find_pairs(data_set, work)
    except UserError as error:
        reason = " ".join(str(error).split()).replace(str(folder), str(home))
        raise UserError(f"{data_set.title} was not put in place: {reason} The archives are kept.") from error
    if not pairs:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise UserError(
            f"The archives of {data_set.title} do not hold its images and masks (they hold {found}); "
            f"nothing was put in place. Expected: {' and '.join(data_set.layouts[0])}."
        )
    return pairs


if __name__ == "__main__":
    main()
