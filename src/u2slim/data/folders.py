"""Which files of a set's folders are its images, and which its masks: by folders' names, and by files' names."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from u2slim.data import shards
from u2slim.data.data_set import DataSet
from u2slim.images.read import EXTENSIONS, Source

Files = dict[str, list[Source]]  # by what the names of an image and of its mask have in common

# Where images and masks share a folder, photos are kept as JPEG and masks as PNG.
SHARED = ((".jpg", ".jpeg"), (".png",))

# (images, masks) folders that copies of the sets use, whichever the set; tried after a set's own layouts. The last
# one is for copies that keep photos (JPEG) and masks (PNG) together.
MIRRORS: tuple[tuple[str, str], ...] = (
    ("images", "masks"),
    ("images", "mask"),
    ("images", "ground_truth_mask"),
    ("images", "gt"),
    ("images", "gts"),
    ("images", "annotations"),
    ("images/validation", "annotations/validation"),
    ("image", "mask"),
    ("image", "masks"),
    ("image", "gt"),
    ("image", "GroundTruth"),
    ("imgs", "gt"),
    ("imgs", "masks"),
    ("img", "gt"),
    ("img", "mask"),
    ("im", "gt"),
    ("imgs", "imgs"),
)


def find_folders(data_set: DataSet, root: Path) -> tuple[Path, Path] | None:
    """The folders of a published set's images and masks, in a copy of any known layout; None where none is there."""
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
            if image_folder and mask_folder and all(image_and_mask_files(data_set, image_folder, mask_folder)):
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


def image_and_mask_files(data_set: DataSet, image_folder: Path, mask_folder: Path) -> tuple[Files, Files]:
    """The images and masks in a published set's two folders, which may be one."""
    if data_set.endings:
        images, masks = data_set.endings
        return _by_ending(image_folder, images), _by_ending(mask_folder, masks)
    of_images, of_masks = SHARED if image_folder == mask_folder else (EXTENSIONS, EXTENSIONS)
    return by_stem(image_folder, of_images), by_stem(mask_folder, of_masks)


def by_stem(folder: Path, extensions: Sequence[str]) -> Files:
    """The files right in a folder whose extension is one of these, by their names without it."""
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


def labelled(members: Iterable[shards.Member], label: str) -> Files:
    """The members `NAME.label.extension` by NAME."""
    files = defaultdict(list)
    for member in members:
        path = PurePosixPath(member.name)
        if path.suffix.lower() in EXTENSIONS and path.stem.endswith(f".{label}") and path.name[0] != ".":
            files[path.stem.removesuffix(f".{label}")].append(member)
    return files
