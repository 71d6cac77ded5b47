"""Finding the pairs of image and mask of a published set on disk."""

from dataclasses import dataclass
from pathlib import Path

from src.data.catalog import CATALOG, DataSet
from src.errors import UserError
from src.images import EXTENSIONS, image_size


@dataclass(frozen=True)
class Pair:
    """One image and its mask."""

    set: str
    name: str
    image: Path
    mask: Path


def find_pairs(name: str, root: str | Path) -> list[Pair] | None:
    """All pairs of a set under `root`, by name; None where the set is not there.

    Folder names are compared without regard to case; `root` may also be the set's own folder.

    Raises:
        UserError: the set is not in the catalog, an image has no mask, a mask's size differs from its image's,
            or a file's header cannot be read.
    """
    if name not in CATALOG:
        raise UserError(f"No data set is called {name!r}; the known ones: {', '.join(CATALOG)}.")
    folders = _folders(CATALOG[name], Path(root))
    if folders is None:
        return None
    pairs = _pair(name, *folders)
    _check_sizes(pairs)
    return pairs


def expected_places(name: str, root: str | Path) -> str:
    """Where `find_pairs` looks for a set, for error messages."""
    data_set = CATALOG[name]
    images, masks = data_set.layouts[0]
    home = Path(root) / data_set.homes[0]
    return f"{data_set.title}: {home / images} and {home / masks}"


def _folders(data_set: DataSet, root: Path) -> tuple[Path, Path] | None:
    homes = [(found, data_set.layouts) for home in data_set.homes if (found := _find_folder(root, home))]
    if root.name.lower() in (home.lower() for home in data_set.homes):
        homes.append((root, data_set.layouts))
    elif data_set.title.lower() in data_set.layouts[0][0].lower():
        homes.append((root, data_set.layouts[:1]))
    for home, layouts in homes:
        for images, masks in layouts:
            image_folder, mask_folder = _find_folder(home, images), _find_folder(home, masks)
            if image_folder and mask_folder and _images(image_folder, mask_folder):
                return image_folder, mask_folder
    return None


def _find_folder(parent: Path, name: str) -> Path | None:
    if name == ".":
        return parent if parent.is_dir() else None
    if (parent / name).is_dir():
        return parent / name
    if not parent.is_dir():
        return None
    return next((p for p in sorted(parent.iterdir()) if p.name.lower() == name.lower() and p.is_dir()), None)


def _images(image_folder: Path, mask_folder: Path) -> list[Path]:
    # Where images and masks share a folder, the published sets keep photos as JPEG and masks as PNG.
    extensions = (".jpg", ".jpeg") if image_folder == mask_folder else EXTENSIONS
    return sorted(p for p in image_folder.iterdir() if p.suffix.lower() in extensions and p.name[0] != ".")


def _pair(name: str, image_folder: Path, mask_folder: Path) -> list[Pair]:
    masks = {}
    for path in sorted(mask_folder.iterdir()):
        is_mask = path.suffix.lower() in EXTENSIONS and path.name[0] != "."
        if is_mask and (image_folder != mask_folder or path.suffix.lower() == ".png"):
            masks[path.stem] = path
    images = _images(image_folder, mask_folder)
    lonely = [path.name for path in images if path.stem not in masks]
    if lonely:
        raise UserError(
            f"{len(lonely)} of {len(images)} images in {image_folder} have no mask in {mask_folder}: "
            f"{_some(lonely)}. Add the masks or remove the images."
        )
    return [Pair(name, path.stem, path, masks[path.stem]) for path in images]


def _check_sizes(pairs: list[Pair]) -> None:
    wrong = []
    for pair in pairs:
        image, mask = image_size(pair.image), image_size(pair.mask)
        if image != mask:
            wrong.append(f"{pair.image} is {image[1]}x{image[0]}, its mask {mask[1]}x{mask[0]}")
    if wrong:
        raise UserError(f"{len(wrong)} masks have another size than their image: {_some(wrong)}. Replace the pairs.")


def _some(items: list[str], limit: int = 5) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
