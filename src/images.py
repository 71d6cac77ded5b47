"""Reading photos and masks of any kind into 8-bit arrays."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from src.errors import UserError
from src.files import write_whole

T = TypeVar("T")

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
ORIENTATION = 0x0112  # the EXIF tag: 1 is upright, 5 to 8 lie on a side

# What Pillow raises for damaged files, depending on the format.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

# From 90 megapixels on Pillow warns, from 180 it refuses; a training photo of 108 is no attack.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class Source(Protocol):
    """Where an image's bytes are: a `Path`, or a member of a tar shard."""

    name: str

    def read_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class Loaded:
    """An image file's bytes in memory, under the name of where they came from."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        return self.data


def read_image(source: str | Source, at_least: int = 0) -> np.ndarray:
    """A photo as RGB (H, W, 3) uint8, upright by its EXIF orientation.

    Grayscale is repeated over the channels, 16 bits are scaled to 8, transparency is laid over white.

    Args:
        source: the file.
        at_least: where not 0, a JPEG may be decoded at a smaller scale, as long as both its sides keep so many pixels.

    Raises:
        UserError: the file is missing, empty, truncated, animated or not an image.
    """
    return _read_photo(source, at_least)[0]


def read_photo(source: str | Source) -> tuple[np.ndarray, np.ndarray | None]:
    """A photo as `read_image`, and where it has transparency its own RGBA (H, W, 4) uint8."""
    return _read_photo(source, 0)


def _read_photo(source: str | Source, at_least: int) -> tuple[np.ndarray, np.ndarray | None]:
    def decode(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
        if at_least:
            image.draft(None, (at_least, at_least))
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit grayscale; converting it with Pillow would clip at 255
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        if not _has_alpha(image):
            return np.array(image.convert("RGB")), None
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return np.array(Image.alpha_composite(white, rgba).convert("RGB")), np.array(rgba)

    data = _bytes(source)
    pixels = _plain_jpeg(data, at_least)
    return _open(source, data, decode) if pixels is None else (pixels, None)


def _plain_jpeg(data: bytes, at_least: int) -> np.ndarray | None:
    """The same pixels as Pillow's in half its time; None where Pillow must have a closer look."""
    if not data.startswith(b"\xff\xd8") or b"Exif" in data[: data.find(b"\xff\xda")]:  # before the pixels begin
        return None
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "RGB", "Gray"):
            return simplejpeg.decode_jpeg(data, "RGB", min_height=at_least, min_width=at_least)
    except ValueError:
        pass  # truncated, perhaps
    return None


def read_mask(source: str | Source) -> np.ndarray:
    """A mask as (H, W) uint8, divided by its own maximum so that 0/1 and 0/255 files mean the same.

    Raises:
        UserError: the file cannot be read, or is a picture with transparency.
    """
    mask = _read_gray(source)
    top = int(mask.max())
    if top in (0, 255):
        return mask.astype(np.uint8, copy=False)
    return np.rint(mask * (255.0 / top)).astype(np.uint8)


def read_gray(source: str | Source) -> np.ndarray:
    """A ready-made prediction as (H, W) uint8, as it is stored; 16 bits are scaled to 8.

    Raises:
        UserError: the file cannot be read, or is a picture with transparency.
    """
    gray = _read_gray(source)
    return gray if gray.dtype == np.uint8 else (gray >> 8).clip(0, 255).astype(np.uint8)


def _read_gray(source: str | Source) -> np.ndarray:
    def decode(image: Image.Image) -> np.ndarray:
        image = ImageOps.exif_transpose(image) if image.getexif() else image
        if _has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            # Whether the mask is in the colours or in the transparency would be a guess.
            raise UserError(f"{source} is a picture with transparency, not a mask; save the mask as a gray image.")
        return np.asarray(image if image.mode == "L" or image.mode.startswith("I") else image.convert("L"))

    data = _bytes(source)
    pixels = _plain_png(data)
    return _open(source, data, decode) if pixels is None else pixels


def _plain_png(data: bytes) -> np.ndarray | None:
    """The same pixels as Pillow's, of an 8-bit gray file and faster; None where Pillow must have a closer look."""
    header = data[: max(0, data.find(b"IDAT"))]
    is_plain = header.startswith(b"\x89PNG") and header[24:26] == b"\x08\x00"  # bits, and 0 for gray
    if not is_plain or any(chunk in header for chunk in (b"tRNS", b"eXIf", b"acTL")):
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # None of a damaged file


def _has_alpha(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


def image_size(source: str | Source) -> tuple[int, int]:
    """(height, width) of an upright image, read from its header alone where it is a file of its own."""
    try:
        with Image.open(source if isinstance(source, str | Path) else BytesIO(source.read_bytes())) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION, 1) >= 5
    except _DAMAGED as error:
        raise unreadable(source, error) from error
    return (width, height) if sideways else (height, width)


def _bytes(source: str | Source) -> bytes:
    try:
        return (Path(source) if isinstance(source, str) else source).read_bytes()
    except OSError as error:
        raise unreadable(source, error) from error


def _open(source: str | Source, data: bytes, decode: Callable[[Image.Image], T]) -> T:
    """What `decode` makes of the image in a file's bytes; every failure is a UserError."""
    try:
        with Image.open(BytesIO(data)) as image:
            if image.mode == "F":
                raise ValueError("floating-point pixels; save it with 8 or 16 bits")
            # Phones write further small pictures behind a photo; the first is the photo.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise ValueError(f"{image.n_frames} frames; save one of them as a picture of its own")
            return decode(image)
    except _DAMAGED as error:
        raise unreadable(source, error) from error


def unreadable(source: str | Source, error: Exception) -> UserError:
    """The sentence for a file that could not be read."""
    path = Path(source) if isinstance(source, str) else source
    if isinstance(path, Path):
        if path.is_symlink() and not path.exists():
            return UserError(f"{path} is a link that leads nowhere; mend or remove it.")
        if not path.exists():
            return UserError(f"{path}: no such file.")
        if path.is_dir():
            return UserError(f"{path} is a folder, not an image.")
    reason = str(error)
    if isinstance(error, UnidentifiedImageError):
        if not path.read_bytes():
            return UserError(f"{path} is empty (0 bytes); replace or remove it.")
        reason = "not an image of a known kind"
    return UserError(f"{path} cannot be read ({reason}); replace or remove it.")


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA uint8 pixels as PNG, whole or not at all."""
    write_whole(path, lambda partial: Image.fromarray(pixels).save(partial, format="PNG", compress_level=4))
