"""Finding the pairs of image and mask of a published set: in folders, or in tar shards."""

import glob
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from u2slim.data import shards
from u2slim.data.catalog import CATALOG, MIRRORS, DataSet
from u2slim.errors import UserError
from u2slim.images.read import EXTENSIONS, Header, Source, load, read_header


@dataclass(frozen=True)
class Pair:
    """One image and its mask, if it has one; `content` is a hash of both, once they have been looked into."""

    set: str
    name: str
    image: Source
    mask: Source | None
    content: str = ""


def content_of(pair: Pair) -> str:
    """What goes into `Pair.content`: the hashes of the files' bytes."""
    return load(pair.image).hash() + (load(pair.mask).hash() if pair.mask else "")


@dataclass(frozen=True)
class Problem:
    """Something to know of a pair: its sort, in words with the file's name, and which pairs show it."""

    set: str
    name: str
    kind: str
    text: str
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Listing:
    """What a set's folders or shards hold, by name, before any file is opened.

    `problems` are images that make no pair, `extra` masks whose image is not there, which harm nobody.
    """

    pairs: list[Pair]
    problems: list[Problem]
    extra: list[Problem]


def list_pairs(name: str, root: str | Path, patterns: str | Sequence[str] | None = None) -> Listing | None:
    """The pairs of a set, by name; None where the set is not there.

    Looked for in the set's folders under `root` (names in any case; `root` may also be the set's own folder), then
    in shards `root/<set>-*.tar`, e.g. `duts-tr-00.tar`; with `patterns`, in the shards that these name.

    Raises:
        UserError: the set is not in the catalog, or a shard cannot be read.
    """
    if name not in CATALOG:
        raise UserError(f"No data set is called {name!r}; the known ones: {', '.join(CATALOG)}.")
    data_set = CATALOG[name]
    if patterns is None:
        if "://" not in str(root):
            root = Path(root).expanduser()
            if folders := _folders(data_set, root):
                return _pair(name, *_files(data_set, *folders))
        patterns = f"{glob.escape(str(root))}/{data_set.homes[0].lower()}-*.tar"
    found = [member for shard in shards.expand(patterns) for member in shards.members(shard)]
    return _pair(name, *(_labelled(found, label) for label in ("image", "mask"))) if found else None


def find_pairs(name: str, root: str | Path, patterns: str | Sequence[str] | None = None) -> list[Pair] | None:
    """All pairs of a set as `list_pairs` finds them, by name; None where the set is not there.

    Raises:
        UserError: as `list_pairs`; or an image has no mask, a mask's size or turn differs from its image's, or a
            file's header cannot be read.
    """
    listing = list_pairs(name, root, patterns)
    if listing is None:
        return None
    refuse(listing.problems)
    refuse([problem for pair in listing.pairs if (problem := misfit(pair, *map(read_header, (pair.image, pair.mask))))])
    return listing.pairs


def list_unlabelled(folder: Path) -> Listing:
    """The images of a folder as pairs of the set `unlabelled` without masks, by name.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    files = sorted(sum(_by_stem(folder, EXTENSIONS).values(), [])) if folder.is_dir() else []
    if not files:
        raise UserError(f"No images in data.unlabelled={folder} (looked for {', '.join(EXTENSIONS)}).")
    problems = [problem for path in files if (problem := _unusable("unlabelled", path.name, (path,)))]
    bad = {problem.name for problem in problems}
    return Listing([Pair("unlabelled", path.name, path, None) for path in files if path.name not in bad], problems, [])


def refuse(problems: Sequence[Problem], limit: int | None = 5, remedy: str = "Mend or remove the files.") -> None:
    """Raise UserError where there are problems, naming all or up to `limit` of them."""
    if problems:
        texts = [problem.text for problem in problems[:limit]]
        if len(texts) < len(problems):
            texts.append(f"and {len(problems) - len(texts)} more")
        raise UserError("\n  ".join([f"{len(problems)} pairs cannot be used:", *texts]) + f"\n{remedy}")


def expected_places(name: str, root: str | Path) -> str:
    """Where `list_pairs` looks for a set, for error messages."""
    data_set = CATALOG[name]
    images, masks = data_set.layouts[0]
    shards = f"{root}/{data_set.homes[0].lower()}-*.tar"
    if "://" in str(root):
        return f"{data_set.title}: {shards}"
    home = Path(root) / data_set.homes[0]
    return f"{data_set.title}: {home / images} and {home / masks}, or {shards}"


def known_shards(shards: Mapping[str, str | Sequence[str]] | None) -> dict[str, str | Sequence[str]]:
    """The setting `shards`, whose keys must be sets of the catalog."""
    if unknown := set(shards or ()) - set(CATALOG):
        raise UserError(f"shards: no data set is called {min(unknown)!r}; the known ones: {', '.join(CATALOG)}.")
    return dict(shards or {})


def _folders(data_set: DataSet, root: Path) -> tuple[Path, Path] | None:
    layouts = data_set.layouts if data_set.labels else (*data_set.layouts, *MIRRORS)
    homes = [(found, layouts) for home in data_set.homes if (found := _find_folder(root, home))]
    if root.name.lower() in (home.lower() for home in data_set.homes):
        homes.append((root, layouts))
    elif data_set.title.lower() in data_set.layouts[0][0].lower():
        # A folder named after its set, as `DUTS-TR-Image`, is recognised right under the root.
        homes.append((root, data_set.layouts[:1]))
    for home, layouts in homes:
        for images, masks in layouts:
            image_folder, mask_folder = _find_folder(home, images), _find_folder(home, masks)
            # Of both, lest a mirror's `imgs` be taken for a folder that images and masks share.
            if image_folder and mask_folder and all(_files(data_set, image_folder, mask_folder)):
                return image_folder, mask_folder
    return None


def _find_folder(parent: Path, name: str) -> Path | None:
    for part in PurePosixPath(name).parts:
        if not (parent / part).is_dir():
            if not parent.is_dir():
                return None
            same = (p for p in sorted(parent.iterdir()) if p.name.lower() == part.lower() and p.is_dir())
            parent = next(same, None)
            if parent is None:
                return None
        else:
            parent = parent / part
    return parent if parent.is_dir() else None


Files = dict[str, list[Source]]


def _files(data_set: DataSet, image_folder: Path, mask_folder: Path) -> tuple[Files, Files]:
    """The images and masks of two folders by the stem of their names."""
    if data_set.endings:
        images, masks = data_set.endings
        return _by_ending(image_folder, images), _by_ending(mask_folder, masks)
    # Where images and masks share a folder, the published sets keep photos as JPEG and masks as PNG.
    shared = image_folder == mask_folder
    images = _by_stem(image_folder, (".jpg", ".jpeg") if shared else EXTENSIONS)
    return images, _by_stem(mask_folder, (".png",) if shared else EXTENSIONS)


def _by_stem(folder: Path, extensions: Sequence[str]) -> Files:
    files = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in extensions and path.name[0] != ".":
            files[path.stem].append(path)
    return files


def _by_ending(folder: Path, endings: Sequence[str]) -> Files:
    """The files in a folder and below it by what their names have before the first ending that any of them has."""
    for ending in endings:
        found = defaultdict(list)
        for path in sorted(folder.rglob(f"*{ending}.*")):
            if path.suffix.lower() in EXTENSIONS and path.name[0] != ".":
                found[path.stem.removesuffix(ending)].append(path)
        if found:
            return found
    return {}


def _labelled(members: Iterable[shards.Member], label: str) -> Files:
    """The members `NAME.label.extension` by NAME."""
    files = defaultdict(list)
    for member in members:
        path = PurePosixPath(member.name)
        if path.suffix.lower() in EXTENSIONS and path.stem.endswith(f".{label}") and path.name[0] != ".":
            files[path.stem.removesuffix(f".{label}")].append(member)
    return files


def _pair(name: str, images: Files, masks: Files) -> Listing:
    pairs, problems, extra = [], [], []
    for stem in sorted(images.keys() | masks.keys()):
        files = *images.get(stem, ()), *masks.get(stem, ())
        if stem not in images:
            extra.append(Problem(name, stem, "no image", f"{files[0]} has no image"))
        elif stem not in masks:
            problems.append(Problem(name, stem, "no mask", f"{files[0]} has no mask"))
        elif len(files) > 2:
            text = f"{' and '.join(map(str, files))} share a name: which belong together is anyone's guess"
            problems.append(Problem(name, stem, "doubled name", text))
        elif problem := _unusable(name, stem, files):
            problems.append(problem)
        else:
            pairs.append(Pair(name, stem, *files))
    return Listing(pairs, problems, extra)


def _unusable(name: str, stem: str, files: Sequence[Source]) -> Problem | None:
    """Why files cannot be used, as far as their names and sorts tell."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in stem):
        text = f"{ascii(str(files[0]))} has a line break, a control character or a broken one in its name"
        return Problem(name, stem, "odd name", text)
    if pipe := next(filter(_is_pipe, files), None):
        return Problem(name, stem, "unreadable", f"{pipe} is a pipe or a device, not an image")
    return None


def _is_pipe(source: Source) -> bool:
    """Whether reading the file might never end."""
    try:
        mode = source.stat().st_mode if isinstance(source, Path) else stat.S_IFREG
    except OSError:
        return False  # reading it will say what is wrong
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def misfit(pair: Pair, image: Header, mask: Header) -> Problem | None:
    """Why an image and its mask cannot lie on each other, as far as their headers tell."""
    if (image.height, image.width) != (mask.height, mask.width):
        text = f"{pair.image} is {image.width}x{image.height}, its mask {mask.width}x{mask.height}"
        if image.turn != mask.turn and image.turn >= 5 and (image.width, image.height) == (mask.height, mask.width):
            return Problem(pair.set, pair.name, "other turn", f"{text}: only the image's EXIF data turn it")
        return Problem(pair.set, pair.name, "other size", text)
    if (image.turn > 1) != (mask.turn > 1) and (max(image.turn, mask.turn) < 5 or image.height == image.width):
        # A quarter turn shows in the sizes, where they are not square; others cannot be told from the files.
        text = f"{pair.image} and its mask have other EXIF orientations ({image.turn} and {mask.turn})"
        return Problem(pair.set, pair.name, "other turn", text)
    return None
