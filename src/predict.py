"""Masks and cut-outs of a photo or a folder of photos."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import track

from src.errors import UserError
from src.images import read_photo, write_png
from src.masks import to_8bit
from src.photos import find_photos
from src.runtime import Segmenter


def predict(segmenter: Segmenter, source: str | Path, output: Path, cutout: bool = True) -> tuple[int, dict[str, str]]:
    """Write `masks/NAME.png` and `cutouts/NAME.png` under `output` at each photo's own size.

    Returns:
        how many photos were done, and for each that could not be read its path and the reason.
    """
    photos = find_photos(source, but=(output / "masks", output / "cutouts"))
    failed = {}
    for photo, name in track(photos, "cutting out"):
        try:
            image, rgba = read_photo(photo)
            mask = to_8bit(segmenter(image))
        except UserError as error:
            failed[str(photo)] = str(error) if str(photo) in str(error) else f"{photo}: {error}"
            continue
        for path, pixels in _results(output, name, image, mask, rgba, cutout):
            write_png(path, pixels)
    return len(photos) - len(failed), failed


def _results(
    output: Path, name: Path, image: np.ndarray, mask: np.ndarray, rgba: np.ndarray | None, cutout: bool
) -> Iterator[tuple[Path, np.ndarray]]:
    yield output / "masks" / f"{name}.png", mask
    if cutout:
        # What was transparent in the photo stays so in the cut-out.
        if rgba is not None:
            image, mask = rgba[..., :3], (mask.astype(np.uint16) * rgba[..., 3] // 255).astype(np.uint8)
        yield output / "cutouts" / f"{name}.png", np.dstack([image, mask])
