"""Finding the photos and masks of one's own: in folders and whatever is below them, or as a table lists them."""

import csv
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from u2slim.data.class_masks import ClassMask, LabelmeClasses
from u2slim.data.data_set import DataSet
from u2slim.data.folders import SHARED, Files
from u2slim.data.own_masks import ALPHA, ChosenMask, LabelmeMask, check_colours, read_coco
from u2slim.errors import UserError
from u2slim.files import user_path
from u2slim.images.read import EXTENSIONS, Source

log = logging.getLogger(__name__)

SHOWN = 3  # names in a sentence
JSON = (".json",)
Named = dict[str, list[Path]]  # by the path below the folder, without what endings take off


def own_files(data_set: DataSet, root: str | Path) -> tuple[Files, Files]:
    """The images and masks of one's own set, some of which belong together, by what their names have in common.

    Raises:
        UserError: a folder or file is missing, or no image has a mask.
    """
    assert data_set.folders
    setting, (images, masks) = f"sets.{data_set.name}", (user_path(root) / user_path(at) for at in data_set.folders)
    if images.suffix.lower() == ".csv":
        return _listed(data_set, images, setting)
    _ensure_folder(images, f"{setting}.images")
    if masks.suffix.lower() == ".json":
        photos = _below(images, EXTENSIONS)
        drawn: Files = {
            str(PurePosixPath(name).with_suffix("")): [mask]
            for name, mask in read_coco(masks, data_set.subject, data_set.stored).items()
        }
        return _partners(data_set, photos, drawn, setting, images, masks)
    _ensure_folder(masks, f"{setting}.masks")
    if images.samefile(masks):
        photos, found = _told_apart(data_set, images, setting)
    elif data_set.endings:
        (image_ending,), (mask_ending,) = data_set.endings
        photos = _with_ending(_below(images, EXTENSIONS, masks), image_ending)
        found = _with_ending(_below(masks, (*EXTENSIONS, *JSON), images), mask_ending)
    else:
        photos, found = _below(images, EXTENSIONS, masks), _below(masks, (*EXTENSIONS, *JSON), images)
    return _partners(data_set, photos, _as_masks(data_set, found, setting), setting, images, masks)


def _ensure_folder(folder: Path, setting: str) -> None:
    if not folder.is_dir():
        raise UserError(f"{setting}: there is no folder {folder}; mend it, or the root that it is below.")


def _below(folder: Path, extensions: Collection[str], other: Path | None = None) -> Named:
    """The files of a folder and of those below it that are not hidden, without those of another folder below it."""
    home, apart = folder.resolve(), None if other is None else other.resolve()
    inner = apart if apart and apart != home and apart.is_relative_to(home) else None
    files = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in extensions or any(part.startswith(".") for part in inside.parts):
            continue
        if inner and (home / inside).is_relative_to(inner):
            continue
        files[inside.with_suffix("").as_posix()].append(path)
    return files


def _told_apart(data_set: DataSet, folder: Path, setting: str) -> tuple[Named, Named]:
    """Photos and masks of one folder: by endings, by their kinds, or by an ending that most masks have."""
    photos, polygons = _below(folder, EXTENSIONS), _below(folder, JSON)
    if data_set.endings:
        (image_ending,), (mask_ending,) = data_set.endings
        if image_ending.lower() == mask_ending.lower():
            raise UserError(
                f"{setting}.endings: images and masks lie in one folder, {folder}, so that their endings must differ; "
                "e.g. ['',_mask]."
            )
        both = {name: [*photos.get(name, ()), *polygons.get(name, ())] for name in photos.keys() | polygons.keys()}
        masks = _with_ending(both, mask_ending, image_ending)
        return _with_ending(photos, image_ending, mask_ending), masks
    if data_set.subject == (ALPHA,):
        return photos, photos
    if photos.keys() & polygons.keys():
        return photos, polygons
    jpegs, pngs = (
        {n: f for n, p in photos.items() if (f := [q for q in p if q.suffix.lower() in kinds])} for kinds in SHARED
    )
    if jpegs.keys() & pngs.keys():
        return jpegs, pngs
    if affix := _affix(photos, photos):
        masks = {n: paths for n, paths in photos.items() if (bare := _without(n, affix)) != n and bare in photos}
        return {name: paths for name, paths in photos.items() if name not in masks}, masks
    return photos, polygons


def _with_ending(files: Named, ending: str, other: str = "") -> Named:
    """The files whose names end so, in any case, by what comes before. An ending may include the extension.

    In one folder a file with both endings is of the kind with the longer one: `cat_mask` of `` and `_mask`.
    """
    found = defaultdict(list)
    for path_name, paths in files.items():
        for path in paths:
            name = _before(path, ending)
            if name and not (len(other) > len(ending) and _before(path, other) is not None):
                found[(PurePosixPath(path_name).parent / name).as_posix()].append(path)
    return found


def _before(path: Path, ending: str) -> str | None:
    text = path.name if Path(f"name{ending}").suffix.lower() in (*EXTENSIONS, *JSON) else path.stem
    return text[: len(text) - len(ending)] if text.lower().endswith(ending.lower()) else None


def _as_masks(data_set: DataSet, found: Named, setting: str) -> Files:
    """What reads the masks as gray images."""
    if stored := data_set.stored:
        return {
            name: [LabelmeClasses(p, stored) if p.suffix.lower() in JSON else ClassMask(p, stored) for p in paths]
            for name, paths in found.items()
        }
    if any(path.suffix.lower() not in JSON for paths in found.values() for path in paths):
        check_colours(data_set.subject, f"{setting}.subject")

    def mask(path: Path) -> Source:
        if path.suffix.lower() in JSON:
            return LabelmeMask(path, data_set.subject)
        return ChosenMask(path, data_set.subject) if data_set.subject else path

    return {name: [mask(path) for path in paths] for name, paths in found.items()}


def _partners(
    data_set: DataSet, photos: Named, masks: Files, setting: str, image_folder: Path, mask_folder: Path
) -> tuple[Files, Files]:
    """The photos, and the masks by the photos' names: by the rule that finds most partners, of those tried in turn."""
    tried = list(_rules(photos, masks))
    rule, named = max(tried, key=lambda one: len(one[1].keys() & photos.keys()))
    if not named.keys() & photos.keys():
        there = f"{_found_in(photos, 'images', image_folder)}, {_found_in(masks, 'masks', mask_folder)}"
        rules = "; ".join(words for words, _ in tried)
        raise UserError(
            f"{setting}: no image has a mask: {there}. Tried: {rules}. Where names differ, say how: "
            f"{setting}.endings=[IMAGES,MASKS], e.g. ['',_mask], or list the pairs in a CSV file."
        )
    if rule != tried[0][0]:
        log.info("%s: images and masks belong together by %s", data_set.title, rule)
    return dict(photos), named


def _rules(photos: Mapping[str, object], masks: Files) -> Iterator[tuple[str, Files]]:
    """What may tie masks to photos, in words, and the masks by the names that they have then."""
    yield "the same path but for the extension", masks
    affix = _affix(photos, masks)
    if affix:
        words = " and ".join(
            f"{part!r} {where}" for part, where in zip(affix, ("before it", "behind it"), strict=True) if part
        )
        yield f"the same path with {words}", _renamed(masks, {name: _without(name, affix) for name in masks})
    places: dict[str, list[str]] = defaultdict(list)
    for name in photos:
        places[PurePosixPath(name).name].append(name)
    if any("/" in name for name in (*photos, *masks)):
        bare = {name: PurePosixPath(_without(name, affix) if affix else name).name for name in masks}
        counts = Counter(bare.values())
        only = {name: places[last][0] for name, last in bare.items() if len(places[last]) == 1 == counts[last]}
        yield "the same name in any folder", _renamed(masks, {name: only.get(name, name) for name in masks})


def _renamed(masks: Files, names: Mapping[str, str]) -> Files:
    renamed = defaultdict(list)
    for name, files in masks.items():
        renamed[names[name]].extend(files)
    return dict(renamed)


def _affix(photos: Iterable[str], masks: Iterable[str]) -> tuple[str, str] | None:
    """What most masks' names have before or behind a photo's: `_mask` of `cat_mask`; None: less than half of them."""
    known = {PurePosixPath(name).name for name in photos}
    lasts = [PurePosixPath(name).name for name in masks]
    seen: Counter[tuple[str, str]] = Counter()
    for last in lasts:
        for cut in range(1, len(last)):
            if last[:cut] in known:
                seen["", last[cut:]] += 1
            if last[cut:] in known:
                seen[last[:cut], ""] += 1
    (affix, times), *_ = seen.most_common(1) or [(("", ""), 0)]
    return affix if times and 2 * times >= min(len(lasts), len(known) // 2 or 1) else None


def _without(name: str, affix: tuple[str, str]) -> str:
    path = PurePosixPath(name)
    before, behind = affix
    last = path.name
    if last.startswith(before) and last.endswith(behind) and len(last) > len(before) + len(behind):
        last = last[len(before) : len(last) - len(behind)]
    return (path.parent / last).as_posix()


def splits_of(table: Path) -> set[str]:
    """What a CSV file of pairs divides them into; nothing of what is no such file."""
    if table.suffix.lower() != ".csv" or not table.is_file():
        return set()
    return {row["split"] or "train" for row in _rows(table) if "split" in row}


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a table ({error}).") from error
    if not rows or not {"image", "mask"} <= rows[0].keys():
        raise UserError(f"{table} needs rows under the columns image and mask, and may have a column split.")
    return rows


def _listed(data_set: DataSet, table: Path, setting: str) -> tuple[Files, Files]:
    """The pairs of a CSV file with the columns `image`, `mask` and, where it divides them, `split`."""
    photos, found = defaultdict(list), defaultdict(list)
    for row in _rows(table):
        if data_set.split and (row.get("split") or "train") != data_set.split:
            continue
        image, mask = (table.parent / user_path(row[column] or "") for column in ("image", "mask"))
        if missing := next((path for path in (image, mask) if not path.is_file()), None):
            raise UserError(
                f"{setting}.images: {table} lists {missing}, which is not there; paths start from the table's folder."
            )
        name = PurePosixPath(row["image"]).with_suffix("").as_posix()
        photos[name].append(image)
        found[name].append(mask)
    if not photos:
        raise UserError(f"{setting}.images: {table} has no row whose split is {data_set.split}.")
    return photos, _as_masks(data_set, found, setting)


def _found_in(files: Mapping[str, list], kind: str, folder: Path) -> str:
    names = [files[name][0].name for name in list(files)[:SHOWN]]
    example = f" (e.g. {', '.join(names)})" if names else f" (looked for {', '.join(EXTENSIONS)})"
    return f"{len(files):,} {kind} in {folder}{example}"
