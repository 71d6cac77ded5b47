"""Reading photos and masks of any kind into 8-bit arrays, and writing files that are whole or absent."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from src.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

# What Pillow raises for damaged files, depending on the format.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def read_image(path: str | Path) -> np.ndarray:
    """A photo as RGB (H, W, 3) uint8, upright by its EXIF orientation.

    Grayscale is repeated over the channels, 16 bits are scaled to 8, transparency is laid over white.

    Raises:
        UserError: the file is missing, empty, truncated or not an image.
    """
    return read_photo(path)[0]


def read_photo(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A photo as `read_image`, and where it has transparency its own RGBA (H, W, 4) uint8."""
    image = _open(path)
    if image.mode.startswith("I"):  # 16-bit grayscale; converting it with Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return np.array(image.convert("RGB")), None
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return np.array(Image.alpha_composite(white, rgba).convert("RGB")), np.array(rgba)


def read_mask(path: str | Path) -> np.ndarray:
    """A mask as (H, W) uint8, divided by its own maximum so that 0/1 and 0/255 files mean the same."""
    image = _open(path)
    mask = np.asarray(image if image.mode.startswith("I") else image.convert("L"))
    top = int(mask.max())
    if top in (0, 255):
        return mask.astype(np.uint8)
    return np.rint(mask * (255.0 / top)).astype(np.uint8)


def read_gray(path: str | Path) -> np.ndarray:
    """A ready-made prediction as (H, W) uint8, as it is stored; 16 bits are scaled to 8.

    Raises:
        UserError: the file cannot be read, or is a cut-out: whether its mask is in the colours is anyone's guess.
    """
    image = _open(path)
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    if has_alpha and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise UserError(f"{path} is a picture with transparency, not a mask; save the mask as a gray image.")
    if image.mode.startswith("I"):
        return (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
    return np.asarray(image.convert("L"))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an upright image, read from its header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(0x0112, 1) >= 5
    except _DAMAGED as error:
        raise _unreadable(path, error) from error
    return (width, height) if sideways else (height, width)


def _open(path: str | Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode == "F":
                raise ValueError("floating-point pixels; save it with 8 or 16 bits")
            return ImageOps.exif_transpose(image)
    except _DAMAGED as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> UserError:
    path = Path(path)
    if not path.exists():
        return UserError(f"{path}: no such file.")
    if path.is_dir():
        return UserError(f"{path} is a folder, not an image.")
    if path.stat().st_size == 0:
        return UserError(f"{path} is empty (0 bytes); replace or remove it.")
    reason = "not an image of a known kind" if isinstance(error, UnidentifiedImageError) else str(error)
    return UserError(f"{path} cannot be read ({reason}); replace or remove it.")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary name beside `path`, then rename: the file is whole or absent.

    Raises:
        UserError: the folder cannot be written.
    """
    partial = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); choose another folder.") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA uint8 pixels as PNG, whole or not at all."""
    write_whole(path, lambda partial: Image.fromarray(pixels).save(partial, format="PNG", compress_level=4))
