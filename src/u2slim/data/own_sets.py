"""Sets of one's own: two folders, or one, that a config declares under `data.sets`."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from u2slim.data.catalog import CATALOG, UNLABELLED
from u2slim.data.data_set import DataSet
from u2slim.data.folders import Files, by_stem, image_and_mask_files
from u2slim.errors import UserError
from u2slim.files import user_path
from u2slim.images.read import EXTENSIONS

KEYS = ("images", "masks", "endings", "title")
RESERVED = (*CATALOG, UNLABELLED.name)


def own_sets(declared: Mapping[str, Any] | None, setting: str = "data.sets") -> dict[str, DataSet]:
    """The sets that a setting declares: `{NAME: {images: FOLDER, masks: FOLDER, endings: [..., ...], title: ...}}`.

    The last two may be left out. Nothing is looked for on disk yet.

    Raises:
        UserError: a name is taken, or a key is missing, not known, or not of its kind.
    """
    if not isinstance(declared or {}, Mapping):
        raise UserError(f"{setting}={declared}: give {{NAME: {{images: FOLDER, masks: FOLDER}}}}.")
    return {name: _own_set(name, keys, f"{setting}.{name}") for name, keys in (declared or {}).items()}


def _own_set(name: str, keys: Any, setting: str) -> DataSet:
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"{setting}: a set's name is made of letters, digits, dots, dashes and underscores.")
    if name in RESERVED:
        raise UserError(f"{setting}: a set of that name is known already; choose another name.")
    if not isinstance(keys, Mapping):
        raise UserError(f"{setting}={keys}: give {{images: FOLDER, masks: FOLDER}}.")
    if unknown := [key for key in keys if key not in KEYS]:
        raise UserError(f"{setting}.{unknown[0]} is not known; the keys of a set are {', '.join(KEYS)}.")
    folders = []
    for key in ("images", "masks"):
        if not isinstance(folder := keys.get(key), str | Path) or not str(folder):
            given = "is missing" if folder is None else f"is {folder!r}"
            raise UserError(f"{setting}.{key} {given}: give the folder of the {key}, absolute or below the data root.")
        folders.append(str(folder))
    title = keys.get("title")
    if title is not None and not isinstance(title, str):
        raise UserError(f"{setting}.title={title}: give a text, or leave it out.")
    return DataSet(name, title or "", folders=tuple(folders), endings=_endings(keys.get("endings"), setting))


def _endings(given: Any, setting: str) -> tuple[tuple[str], tuple[str]] | None:
    if given is None:
        return None
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    if not listed or len(given) != 2 or not all(isinstance(ending, str) for ending in given):
        raise UserError(f"{setting}.endings={given}: give two, of images and of masks, e.g. ['', _mask].")
    return (given[0],), (given[1],)


def own_files(data_set: DataSet, root: str | Path) -> tuple[Files, Files]:
    """The images and masks of one's own set, some of which belong together. What lies in folders below is not seen.

    Raises:
        UserError: a folder is missing, or no image has a mask.
    """
    setting = f"sets.{data_set.name}"
    folders = [user_path(root) / user_path(folder) for folder in data_set.folders]
    for key, folder in zip(("images", "masks"), folders, strict=True):
        if not folder.is_dir():
            raise UserError(f"{setting}.{key}: there is no folder {folder}; mend it, or the root that it is below.")
    if folders[0].samefile(folders[1]):
        folders[1] = folders[0]
    found = _told_apart(data_set, *folders) if data_set.endings else image_and_mask_files(data_set, *folders)
    images, masks = found
    if not images.keys() & masks.keys():
        there = f"{_found_in(images, 'images', folders[0])}, {_found_in(masks, 'masks', folders[1])}"
        raise UserError(
            f"{setting}: no image has a mask: {there}. Both have the same name but for their endings; where these "
            f"differ, say how: {setting}.endings=[IMAGES,MASKS], e.g. ['',_mask]."
        )
    return found


def _told_apart(data_set: DataSet, image_folder: Path, mask_folder: Path) -> tuple[Files, Files]:
    """By endings. In one folder a file with both is of the kind with the longer one: `cat_mask` of `` and `_mask`."""
    (image_ending,), (mask_ending,) = data_set.endings
    if image_folder != mask_folder:
        return _with_ending(image_folder, image_ending), _with_ending(mask_folder, mask_ending)
    if image_ending.lower() == mask_ending.lower():
        raise UserError(
            f"sets.{data_set.name}.endings: images and masks lie in one folder, {image_folder}, so that their endings "
            "must differ; e.g. ['',_mask]."
        )
    images = _with_ending(image_folder, image_ending, other=mask_ending)
    return images, _with_ending(mask_folder, mask_ending, other=image_ending)


def _with_ending(folder: Path, ending: str, other: str = "") -> Files:
    """The files whose names end so, in any case, by what comes before. An ending may include the extension."""
    files = defaultdict(list)
    for path in (path for paths in by_stem(folder, EXTENSIONS).values() for path in paths):
        name = _before(path, ending)
        if name and not (len(other) > len(ending) and _before(path, other) is not None):
            files[name].append(path)
    return files


def _before(path: Path, ending: str) -> str | None:
    text = path.name if Path(f"name{ending}").suffix.lower() in EXTENSIONS else path.stem
    return text[: len(text) - len(ending)] if text.lower().endswith(ending.lower()) else None


def _found_in(files: Files, kind: str, folder: Path) -> str:
    example = f" (e.g. {next(iter(files.values()))[0].name})" if files else f" (looked for {', '.join(EXTENSIONS)})"
    return f"{len(files):,} {kind} in {folder}{example}"
