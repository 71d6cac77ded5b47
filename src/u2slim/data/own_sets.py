"""Sets of one's own, as a config declares them: `data.images` and `data.masks`, or more of them under `data.sets`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from u2slim.data.catalog import CATALOG, UNLABELLED
from u2slim.data.data_set import DataSet
from u2slim.data.own_files import splits_of
from u2slim.data.own_labels import own_labels
from u2slim.data.own_masks import checked_subject
from u2slim.errors import UserError
from u2slim.files import user_path

KEYS = ("images", "masks", "endings", "subject", "title", "split", "labels", "ignore", "others")
RESERVED = (*CATALOG, UNLABELLED.name)


def own_sets(declared: Mapping[str, Any] | None, setting: str = "data.sets") -> dict[str, DataSet]:
    """The sets that a setting declares: `{NAME: {images: FOLDER, masks: FOLDER, endings: [..., ...], …}}`.

    Images may be a CSV file of pairs, which needs no masks. A set with `labels` has classes, as `own_labels` reads them
    and `ignore` and `others`. Nothing is looked for on disk yet.

    Raises:
        UserError: a name is taken, or a key is missing, not known, or not of its kind.
    """
    if not isinstance(declared or {}, Mapping):
        raise UserError(f"{setting}={declared}: give {{NAME: {{images: FOLDER, masks: FOLDER}}}}.")
    return {name: _own_set(name, keys, f"{setting}.{name}") for name, keys in (declared or {}).items()}


def short_sets(
    declared: Mapping[str, Any] | None,
    root: str,
    given: Mapping[str, Any],
    val: Mapping[str, Any],
    classes: Mapping[str, Any],
) -> tuple[dict[str, DataSet], bool, bool]:
    """The sets that are declared, and `own`, `own_val` and `own_test` of the settings that need no such declaration.

    Args:
        declared: as `own_sets` takes them.
        root: what relative paths are below.
        given: the keys of `own`; its images may be a CSV file with a column `split`, which divides them.
        val: the images and masks of `own_val`, if it has folders of its own.
        classes: the labels, ignore and others of all sets that have no labels of their own.

    Returns:
        the sets, and whether `own_val` and `own_test` are among them.

    Raises:
        UserError: as `own_sets`.
    """
    if given["images"] is None:
        if alone := [f"data.{key}" for key, value in given.items() if value is not None]:
            raise UserError(f"{alone[0]} belongs to data.images, which is not given.")
        own = declared.get("own") if isinstance(declared, Mapping) else None
        if isinstance(own, Mapping) and not any(own.values()):
            if len(declared) == 1:
                raise UserError(
                    "data.images is missing: give the folder of your photos, absolute or below data.root, or a CSV "
                    "file of pairs; and the folder of their masks as data.masks."
                )
            declared = {name: keys for name, keys in declared.items() if name != "own"}
        return own_sets(_with_classes(declared, classes)), False, False
    if val["images"] is None and val["masks"] is not None:
        raise UserError("data.val_masks belongs to data.val_images, which is not given.")
    splits = splits_of(user_path(root) / user_path(str(given["images"])))
    sets: dict[str, Any] = {"own": {**given, "split": "train" if splits else None}}
    if val["images"] is not None:
        sets["own_val"] = {**given, **val}
    elif "val" in splits:
        sets["own_val"] = {**given, "split": "val"}
    if "test" in splits:
        sets["own_test"] = {**given, "split": "test"}
    others = {name: keys for name, keys in (declared or {}).items() if name not in sets}
    made = {name: _own_set(name, {**keys, **classes}, "data") for name, keys in sets.items()}
    return own_sets(_with_classes(others, classes)) | made, "own_val" in sets, "own_test" in sets


def _with_classes(declared: Any, classes: Mapping[str, Any]) -> Any:
    """The sets as they are declared; those without labels of their own have these classes."""
    if classes["labels"] is None or not isinstance(declared, Mapping):
        return declared
    own_labels(classes["labels"], classes["ignore"], classes["others"], "data")  # for what is wrong with all of them
    return {
        name: {**keys, **{key: value for key, value in classes.items() if keys.get(key) is None}}
        if isinstance(keys, Mapping) and keys.get("labels") is None
        else keys
        for name, keys in declared.items()
    }


def _own_set(name: str, keys: Any, setting: str) -> DataSet:
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"{setting}: a set's name is made of letters, digits, dots, dashes and underscores.")
    if name in RESERVED:
        raise UserError(f"{setting}: a set of that name is known already; choose another name.")
    if not isinstance(keys, Mapping):
        raise UserError(f"{setting}={keys}: give {{images: FOLDER, masks: FOLDER}}.")
    if unknown := [key for key in keys if key not in KEYS]:
        raise UserError(f"{setting}.{unknown[0]} is not known; the keys of a set are {', '.join(KEYS)}.")
    folders: list[str] = []
    subject = checked_subject(keys.get("subject"), f"{setting}.subject")
    for key in ("images", "masks"):
        if folders and keys.get(key) is None and (folders[0].lower().endswith(".csv") or subject == ("alpha",)):
            folders *= 2  # a table has both, and so has a cut-out
            continue
        if not isinstance(folder := keys.get(key), str | Path) or not str(folder):
            given = "is missing" if folder is None else f"is {folder!r}"
            raise UserError(f"{setting}.{key} {given}: give the folder of the {key}, absolute or below the data root.")
        folders.append(str(folder))
    labels, stored = None, None
    if keys.get("labels") is not None:
        if subject:
            raise UserError(f"{setting}.subject is for masks: with {setting}.labels there are classes. Leave one out.")
        labels, stored = own_labels(keys["labels"], keys.get("ignore"), keys.get("others"), setting)
    elif keys.get("ignore") is not None:
        raise UserError(f"{setting}.ignore belongs to {setting}.labels, which is not given.")
    title = keys.get("title")
    if title is not None and not isinstance(title, str):
        raise UserError(f"{setting}.title={title}: give a text, or leave it out.")
    endings, split = _endings(keys.get("endings"), setting), str(keys.get("split") or "")
    chosen = {"labels": labels, "stored": stored, "subject": subject, "split": split}
    return DataSet(name, title or "", folders=tuple(folders), endings=endings, **chosen)


def _endings(given: Any, setting: str) -> tuple[tuple[str], tuple[str]] | None:
    if given is None:
        return None
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    if not listed or len(given) != 2 or not all(isinstance(ending, str) for ending in given):
        raise UserError(f"{setting}.endings={given}: give two, of images and of masks, e.g. ['', _mask].")
    return (given[0],), (given[1],)
