"""Finding the pairs of image and mask of a set: in folders, or in tar shards."""

import glob
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from u2slim.data import shards
from u2slim.data.catalog import UNLABELLED, get_data_set
from u2slim.data.class_masks import ClassMask
from u2slim.data.data_set import DataSet
from u2slim.data.folders import Files, by_stem, find_folders, image_and_mask_files, labelled
from u2slim.data.own_files import own_files
from u2slim.errors import UserError
from u2slim.files import user_path
from u2slim.images.read import EXTENSIONS, Header, Source, load, read_header


@dataclass(frozen=True)
class Pair:
    """One image and its mask, if it has one; `content` is a hash of both, once they have been looked into."""

    data_set: DataSet
    name: str
    image: Source
    mask: Source | None
    content: str = ""

    @property
    def set(self) -> str:
        """The name of its set."""
        return self.data_set.name


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


def list_pairs(data_set: DataSet, root: str | Path, patterns: str | Sequence[str] | None = None) -> Listing | None:
    """The pairs of a set, by name; None where a published set is not there.

    Looked for in the set's folders under `root` (names in any case; `root` may also be the set's own folder), then
    in shards `root/<set>-*.tar`, e.g. `duts-tr-00.tar`; with `patterns`, in the shards that these name. One's own set
    lies in the folders that it names.

    Raises:
        UserError: a shard cannot be read, or one's own set has no such folders or no pairs in them.
    """
    if data_set.folders:
        return _pair(data_set, *own_files(data_set, root))
    if patterns is None:
        if "://" not in str(root):
            root = user_path(root)
            if folders := find_folders(data_set, root):
                return _pair(data_set, *image_and_mask_files(data_set, *folders))
        patterns = f"{glob.escape(str(root))}/{data_set.homes[0].lower()}-*.tar"
    found = [member for shard in shards.expand(patterns) for member in shards.members(shard)]
    return _pair(data_set, *(labelled(found, label) for label in ("image", "mask"))) if found else None


def find_pairs(data_set: DataSet, root: str | Path, patterns: str | Sequence[str] | None = None) -> list[Pair] | None:
    """All pairs of a set as `list_pairs` finds them, by name; None where a published set is not there.

    Raises:
        UserError: as `list_pairs`; or an image has no mask, a mask's size or turn differs from its image's, or a
            file's header cannot be read.
    """
    listing = list_pairs(data_set, root, patterns)
    if listing is None:
        return None
    refuse(listing.problems)
    labelled = () if data_set.withheld else listing.pairs
    refuse([problem for pair in labelled if (problem := misfit(pair, *map(_header, (pair.image, pair.mask))))])
    return listing.pairs


def list_unlabelled(folder: Path) -> Listing:
    """The images of a folder as pairs of the set `unlabelled` without masks, by name.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    files = sorted(chain.from_iterable(by_stem(folder, EXTENSIONS).values())) if folder.is_dir() else []
    if not files:
        raise UserError(f"No images in data.unlabelled={folder} (looked for {', '.join(EXTENSIONS)}).")
    problems = [problem for path in files if (problem := _unusable(UNLABELLED, path.name, (path,)))]
    bad = {problem.name for problem in problems}
    return Listing([Pair(UNLABELLED, path.name, path, None) for path in files if path.name not in bad], problems, [])


def refuse(problems: Sequence[Problem], limit: int | None = 5, remedy: str = "Mend or remove the files.") -> None:
    """Raise UserError where there are problems, naming all or up to `limit` of them."""
    if problems:
        texts = [problem.text for problem in problems[:limit]]
        if len(texts) < len(problems):
            texts.append(f"and {len(problems) - len(texts)} more")
        raise UserError("\n  ".join([f"{len(problems)} pairs cannot be used:", *texts]) + f"\n{remedy}")


def expected_places(data_set: DataSet, root: str | Path) -> str:
    """Where `list_pairs` looks for a published set, for error messages."""
    folders = dict.fromkeys(data_set.layouts[0])  # images and masks may share one
    shards = f"{root}/{data_set.homes[0].lower()}-*.tar"
    if "://" in str(root):
        return f"{data_set.title}: {shards}"
    home = Path(root) / data_set.homes[0]
    return f"{data_set.title}: {' and '.join(str(home / folder) for folder in folders)}, or {shards}"


def known_shards(shards: Mapping[str, str | Sequence[str]] | None) -> dict[str, str | Sequence[str]]:
    """The setting `shards`, whose keys must be published sets.

    Raises:
        UserError: one is not.
    """
    for name in shards or ():
        get_data_set(name)
    return dict(shards or {})


def _pair(data_set: DataSet, images: Files, masks: Files) -> Listing:
    pairs, problems, extra = [], [], []
    for stem in sorted(images.keys() | masks.keys()):
        files = *images.get(stem, ()), *masks.get(stem, ())
        if stem not in images:
            extra.append(Problem(data_set.name, stem, "no image", f"{files[0]} has no image"))
        elif stem not in masks:
            problems.append(Problem(data_set.name, stem, "no mask", f"{files[0]} has no mask"))
        elif len(files) > 2:
            text = f"{' and '.join(map(str, files))} share a name: nothing says which of them belong together"
            problems.append(Problem(data_set.name, stem, "doubled name", text))
        elif problem := _unusable(data_set, stem, files):
            problems.append(problem)
        else:
            pairs.append(Pair(data_set, stem, files[0], None if data_set.withheld else files[1]))
    return Listing(pairs, problems, extra)


def _unusable(data_set: DataSet, stem: str, files: Sequence[Source]) -> Problem | None:
    """Why files cannot be used, as far as their names and sorts tell."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in stem):
        text = f"{str(files[0])!a} has a line break, a control character or a broken character in its name"
        return Problem(data_set.name, stem, "odd name", text)
    if pipe := next(filter(_is_pipe, files), None):
        return Problem(data_set.name, stem, "unreadable", f"{pipe} is a pipe or a device, not an image")
    return None


def _is_pipe(source: Source) -> bool:
    """Whether reading the file might never end."""
    try:
        mode = source.stat().st_mode if isinstance(source, Path) else stat.S_IFREG
    except OSError:
        return False  # reading it will say what is wrong
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _header(source: Source) -> Header:
    # What labels of one's own are in the file is seen later, when all of it is read.
    return read_header(source.path if isinstance(source, ClassMask) else source)


def misfit(pair: Pair, image: Header, mask: Header) -> Problem | None:
    """Why an image and its mask cannot lie on each other, as far as their headers tell."""
    if (image.height, image.width) != (mask.height, mask.width):
        text = f"{pair.image} is {image.width}x{image.height}, its mask {mask.width}x{mask.height}"
        if image.turn != mask.turn and image.turn >= 5 and (image.width, image.height) == (mask.height, mask.width):
            return Problem(pair.set, pair.name, "other turn", f"{text}: only the image is turned by its EXIF data")
        return Problem(pair.set, pair.name, "other size", text)
    if (image.turn > 1) != (mask.turn > 1) and (max(image.turn, mask.turn) < 5 or image.height == image.width):
        # A quarter turn shows in the sizes, where they are not square; others cannot be told from the files.
        text = f"{pair.image} and its mask have different EXIF orientations ({image.turn} and {mask.turn})"
        return Problem(pair.set, pair.name, "other turn", text)
    return None
