"""Writing pixels as image files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, features

from u2slim.errors import UserError
from u2slim.files import write_bytes_whole
from u2slim.images.metadata import Metadata
from u2slim.remote import Place


@dataclass(frozen=True)
class Format:
    """A kind of image file.

    Args:
        name: as users give it: the encoder's, and after a dash what is special.
        endings: of its files; the first is ours.
        max_side: the most pixels that a side may have.
        has_alpha, has_dpi: whether it has a place for transparency and for pixels per inch.
        options: Pillow's, for files that look like the photo.
    """

    name: str
    endings: tuple[str, ...]
    max_side: int = 2**31 - 1
    has_alpha: bool = True
    has_dpi: bool = True
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def encoder(self) -> str:
        return self.name.partition("-")[0]


FORMATS = {
    kind.name: kind
    for kind in (
        Format("png", (".png",), options={"compress_level": 1}),  # half the time of 3, at a tenth more bytes
        Format("webp", (".webp",), 16_383, has_dpi=False, options={"quality": 90}),
        # The least effort: more takes seconds for a few per cent.
        Format(
            "webp-lossless",
            (".webp",),
            16_383,
            has_dpi=False,
            options={"lossless": True, "quality": 0, "method": 0},
        ),
        Format("jpeg", (".jpg", ".jpeg"), 65_500, has_alpha=False, options={"quality": 95}),
        Format("tiff", (".tif", ".tiff"), options={"compression": "tiff_deflate"}),
        Format("avif", (".avif",), 65_536, has_dpi=False, options={"quality": 90, "speed": 8}),
    )
}
PNG = FORMATS["png"]
ROWS = 256  # that are laid over each other at a time
ENDINGS = tuple(dict.fromkeys(ending for kind in FORMATS.values() for ending in kind.endings))


def format_of(path: Place) -> Format | None:
    """The format that a file's ending stands for, the first of several; None: none that is written."""
    return next((kind for kind in FORMATS.values() if path.suffix.lower() in kind.endings), None)


def encode(pixels: np.ndarray, kind: Format = PNG, metadata: Metadata | None = None) -> bytes:
    """The file of (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA uint8 pixels; JPEGs have the last over white.

    Raises:
        UserError: the format has no place for so many pixels, or Pillow is built without it.
    """
    if max(pixels.shape[:2]) > kind.max_side:
        raise UserError(f"{kind.name} files have at most {kind.max_side} pixels a side; choose another format, as png.")
    if kind is PNG and not metadata:
        # OpenCV's own setting takes under a third of Pillow's time at level 4 for files of the same size.
        order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(pixels.ndim == 3 and pixels.shape[2])
        return cv2.imencode(".png", pixels if order is None else cv2.cvtColor(pixels, order))[1].tobytes()
    if kind.encoder in ("webp", "avif") and not features.check(kind.encoder):
        raise UserError(f"This Pillow is built without {kind.encoder}: pip install --upgrade pillow, or choose png.")
    if pixels.ndim == 3 and pixels.shape[2] == 4 and not kind.has_alpha:
        pixels = over(pixels[..., :3], pixels[..., 3], np.full_like(pixels[..., :3], 255))
    file, options = BytesIO(), {**kind.options, **(metadata or Metadata()).options()}
    if "exif" in options:
        # upstream: not reported as far as known (seen with Pillow 13.0): libtiff gets no directories inside EXIF data,
        # as every camera writes them; Pillow's own writer does not compress. Drop when both together work.
        options.pop("compression", None)
    try:
        Image.fromarray(pixels).save(file, kind.encoder.upper(), **options)
    except MemoryError:
        raise
    except Exception as error:  # as of EXIF data that the format has no room for; what Pillow raises depends on both
        raise UserError(f"it cannot be a {kind.name} file ({error}); choose another format, or keep less.") from error
    return file.getvalue()


def write_image(path: Path, pixels: np.ndarray, kind: Format = PNG, metadata: Metadata | None = None) -> None:
    """Write what `encode` gives, whole or not at all."""
    write_bytes_whole(path, encode(pixels, kind, metadata))


def over(colours_HW3: np.ndarray, alpha_HW: np.ndarray, ground_HW3: np.ndarray) -> np.ndarray:
    """RGB uint8 of colours laid over a ground, as much as `alpha` in 0..255 says."""
    result = np.empty_like(colours_HW3)
    for start in range(0, len(result), ROWS):  # of a large photo, more at a time would be gigabytes
        part = slice(start, start + ROWS)
        alpha = alpha_HW[part, :, None].astype(np.uint16)
        result[part] = (colours_HW3[part] * alpha + ground_HW3[part] * (255 - alpha) + 127) // 255
    return result
