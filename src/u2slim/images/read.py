"""Reading photos and masks of any kind into 8-bit arrays."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from u2slim.errors import BadLabels, Unreadable, UserError
from u2slim.images.decoders import is_whole_png, jpeg_damage, opened, plain_jpeg, plain_png
from u2slim.images.metadata import has_alpha, has_foreign_profile, to_srgb

T = TypeVar("T")

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"),
    *(".heic", ".heif"),
)

GROUNDS = (255, 0, 128)  # grays to lay transparency over
NEAR = 48  # of 255: a colour so near to the ground vanishes on it
MAX_VANISHING = 0.2  # of the opaque pixels

_ORIENTATION = 0x0112  # the EXIF tag
_SAMPLES = 339  # the TIFF tag that says what pixels are: 2 is numbers with a sign
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# From 90 megapixels on Pillow warns, from 180 it refuses, and phones take photos of 200: here it is 512. Whoever has
# set a bound of their own keeps it.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
if Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3:
    Image.MAX_IMAGE_PIXELS = 2**28


class Source(Protocol):
    """Where an image's bytes are: a `Path`, or a member of a tar shard."""

    @property
    def name(self) -> str: ...

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

    def hash(self) -> str:
        """BLAKE2b, 128 bits, in hexadecimal."""
        return hashlib.blake2b(self.data, digest_size=16).hexdigest()


def load(source: str | Source) -> Loaded:
    """A file's bytes, not decoded yet.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return Loaded(str(source), (Path(source) if isinstance(source, str) else source).read_bytes())
    except OSError as error:
        raise unreadable(source, error) from error


def read_image(source: str | Source, min_side: int = 0) -> np.ndarray:
    """A photo as RGB (H, W, 3) uint8, upright by its EXIF orientation.

    Grayscale is repeated over the channels, 16 bits are scaled to 8, transparency is laid over `ground`, and colours of
    CMYK or gray with a profile are turned into sRGB's.

    Args:
        source: the file.
        min_side: where not 0, a JPEG may be decoded at a smaller scale, as long as both its sides keep so many pixels.

    Raises:
        UserError: the file is missing, empty, truncated, animated or not an image.
    """
    return _read_photo(source, min_side)[0]


def read_photo(source: str | Source, srgb: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """A photo as `read_image`, and where it has transparency its own RGBA (H, W, 4) uint8.

    Args:
        source: the file.
        srgb: turn its colours into sRGB's, by its own profile.
    """
    return _read_photo(source, 0, srgb)


def _read_photo(source: str | Source, min_side: int, srgb: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    def decode(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
        if min_side:
            image.draft(None, (min_side, min_side))
        return _photo_pixels(image, srgb)

    data = load(source).data
    # A gray JPEG's profile must be heeded always, and only Pillow tells a gray one's from another's.
    has_profile = b"ICC_PROFILE" in data and (srgb or b"GRAYXYZ" in data or b"GRAYLab" in data)
    pixels = None if has_profile else plain_jpeg(data, min_side)
    return _open(source, data, decode) if pixels is None else (pixels, None)


def photo_pixels(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """What `read_photo` makes of an image that Pillow has opened or made.

    Raises:
        UserError: its pixels are none of a photo.
    """
    try:
        return _photo_pixels(image, srgb=False)
    except Exception as error:  # as in _open
        raise UserError(f"The image cannot be read ({str(error) or type(error).__name__}).") from error


def _photo_pixels(image: Image.Image, srgb: bool) -> tuple[np.ndarray, np.ndarray | None]:
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("32-bit or signed pixels; save it with 8 or 16 bits")
    key = _transparent_value(image)
    image = _upright(image)
    # upstream: https://github.com/python-pillow/Pillow/issues/3159; drop when it is closed
    if image.mode.startswith("I"):  # 16-bit grayscale; converting it with Pillow would clip at 255
        deep_HW = np.asarray(image)
        image = Image.fromarray((deep_HW >> 8).clip(0, 255).astype(np.uint8))
        if key is not None:
            image.putalpha(Image.fromarray(np.where(deep_HW == key, 0, 255).astype(np.uint8)))
    elif key is not None:
        image.info["transparency"] = key
    if srgb or has_foreign_profile(image):
        try:
            image = to_srgb(image)
        except ValueError:
            if srgb:
                raise
    if not has_alpha(image):
        return np.array(image.convert("RGB")), None
    rgba = _straight(image).convert("RGBA")
    own_HW4 = np.array(rgba)
    behind = Image.new("RGBA", rgba.size, (ground(own_HW4),) * 3)
    return np.array(Image.alpha_composite(behind, rgba).convert("RGB")), own_HW4


def _transparent_value(image: Image.Image) -> Any:
    """The one gray or colour of a PNG that stands for transparency, as the values that Pillow reads; None elsewhere.

    To be asked before the pixels are loaded.
    """
    # upstream: not reported as far as known (seen with Pillow 13.0), which scales pixels to 8 bits and not this value;
    # drop when PNGs of 2, 4 and 16 bits with a tRNS chunk are transparent in convert("RGBA")
    key, stored = image.info.get("transparency"), str(getattr(image, "tile", ""))
    if image.format != "PNG" or key is None or isinstance(key, bytes):
        return None
    if "RGB;16" in stored:
        return tuple(value >> 8 for value in key)
    return key * next((scale for bits, scale in {"L;2": 85, "L;4": 17}.items() if bits in stored), 1)


def _straight(image: Image.Image) -> Image.Image:
    """The same with colours that are not multiplied by their transparency, as HEIC may have them."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))


def ground(own_HW4: np.ndarray) -> int:
    """The gray value to lay an RGBA picture over: white, or what its opaque pixels stand out from better.

    A white logo on transparency would vanish on white. So that is passed over if it is the colour of more than
    `MAX_VANISHING` of the opaque pixels; of black and middle gray the better one is taken then.
    """
    step = max(1, max(own_HW4.shape[:2]) // 512)
    sampled = own_HW4[::step, ::step]
    opaque = sampled[sampled[..., 3] >= 128][:, :3].astype(np.int16)
    if not opaque.size:
        return GROUNDS[0]
    vanishing = [(abs(opaque - gray).max(1) < NEAR).mean() for gray in GROUNDS]
    if vanishing[0] <= MAX_VANISHING:
        return GROUNDS[0]
    return GROUNDS[int(np.argmin(vanishing))]


def read_mask(source: str | Source) -> np.ndarray:
    """A mask as (H, W) uint8, divided by its own maximum so that 0/1 and 0/255 files mean the same.

    Raises:
        UserError: the file cannot be read, or is a picture with transparency.
    """
    mask = read_stored(source)
    top = int(mask.max())
    if top in (0, 255):
        return mask.astype(np.uint8, copy=False)
    return np.rint(mask * (255.0 / top)).astype(np.uint8)


def read_gray(source: str | Source) -> np.ndarray:
    """A ready-made prediction as (H, W) uint8, as it is stored; 16 bits are scaled to 8.

    Raises:
        UserError: the file cannot be read, or is a picture with transparency.
    """
    gray = read_stored(source)
    return gray if gray.dtype == np.uint8 else (gray >> 8).clip(0, 255).astype(np.uint8)


def read_stored(source: str | Source) -> np.ndarray:
    """A gray image as (H, W) of the integers that it is stored in.

    Raises:
        UserError: the file cannot be read, or is a picture with transparency.
    """

    def decode(file: ImageFile.ImageFile) -> np.ndarray:
        # upstream: https://github.com/python-pillow/Pillow/issues/7723 (closed for 1888); drop when RGB has 16 bits
        has_lost_bits = ";16" in str(file.tile) and not file.mode.startswith("I")  # Pillow keeps the upper eight
        image = _upright(file)
        if has_alpha(image):
            image = _straight(image).convert("RGBA")
            if np.asarray(image.getchannel("A")).min() < 255:
                # Whether the mask is in the colours or in the transparency would be a guess.
                raise UserError(
                    f"{source} is a picture with transparency, not a mask; save the mask as a gray image, or give "
                    "data.subject=alpha if that is the mask."
                )
        gray = np.asarray(image if image.mode == "L" or image.mode.startswith("I") else image.convert("L"))
        if gray.min() < 0:
            raise ValueError("negative pixels; save it with 8 or 16 bits")
        if has_lost_bits and gray.max() == 0:
            raise ValueError("16 bits a channel, all too dark to be told from black; save it as a gray image")
        return gray

    data = load(source).data
    pixels = plain_png(data)
    return _open(source, data, decode) if pixels is None else pixels


def read_with(source: str | Source, choose: Callable[[Image.Image], T]) -> T:
    """What a function makes of the upright image, decoded by Pillow.

    Raises:
        UserError: the file cannot be read.
    """
    return _open(source, load(source).data, lambda image: choose(_upright(image)))


def read_ids(source: str | Source) -> np.ndarray:
    """A label image as (H, W) of the numbers that it is stored in; in a file with a palette these are its indices.

    Raises:
        UserError: the file cannot be read; as BadLabels, it holds colours.
    """

    def decode(image: Image.Image) -> np.ndarray:
        image = _upright(image)
        if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
            raise BadLabels(
                f"{source} holds colours ({image.mode}), not class ids: give the set's files of ids, or save each "
                "colour as the number of its class in a gray PNG."
            )
        return np.asarray(image, np.uint8 if image.mode in ("L", "P", "1") else np.uint16)

    data = load(source).data
    pixels = plain_png(data)
    return _open(source, data, decode) if pixels is None else pixels


def _turn(image: Image.Image) -> int:
    """The EXIF orientation: 1 is upright, 5 to 8 lie on a side."""
    turn = image.getexif().get(_ORIENTATION, 1)
    return turn if turn in _UPRIGHT else 1


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose, which also writes the rest of the EXIF data anew and fails where it is odd.
    # upstream: https://github.com/python-pillow/Pillow/issues/8965, of many alike; drop when it only turns
    image.load()  # turns a TIFF by itself
    turn = _turn(image)
    return image if turn == 1 else image.transpose(_UPRIGHT[turn])


@dataclass(frozen=True)
class Header:
    """What an image says before its pixels: the upright size, the EXIF orientation, and Pillow's mode."""

    height: int
    width: int
    turn: int
    mode: str


def read_header(source: str | Source) -> Header:
    """Only the header is read where the image is a file of its own.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with opened(source if isinstance(source, str | Path) else BytesIO(source.read_bytes())) as image:
            turn, (width, height) = _turn(image), image.size
            if getattr(image, "tag_v2", {}).get(_ORIENTATION) in (5, 6, 7, 8):
                width, height = height, width  # Pillow has swapped them already, but not for a turn in XMP data
            mode = "L" if image.format == "WEBP" and image.mode == "RGB" else image.mode  # WebP has no gray of its own
    except UserError:
        raise
    except Exception as error:  # as in _open
        raise unreadable(source, error) from error
    return Header(width, height, turn, mode) if turn >= 5 else Header(height, width, turn, mode)


def image_size(source: str | Source) -> tuple[int, int]:
    """(height, width) of an upright image, as `read_header`."""
    header = read_header(source)
    return header.height, header.width


def _open(source: str | Source, data: bytes, decode: Callable[[ImageFile.ImageFile], T]) -> T:
    """What `decode` makes of the image in a file's bytes; every failure is a UserError."""
    try:
        with opened(BytesIO(data)) as image:
            if image.format == "EPS":  # Pillow would have Ghostscript run it
                raise ValueError("a PostScript program; save it as an image")
            if image.mode == "F":
                raise ValueError("floating-point pixels; save it with 8 or 16 bits")
            # Phones write further small pictures behind a photo; the first is the photo.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise ValueError(
                    f"{getattr(image, 'n_frames', 'several')} frames; save one of them as a picture of its own"
                )
            if image.format == "PNG" and not is_whole_png(data):
                raise ValueError("a checksum is wrong or the end is missing")
            if image.format in ("JPEG", "MPO") and (damage := jpeg_damage(data)):
                raise ValueError(damage)
            # upstream: not reported as far as known (seen with Pillow 13.0); drop when it inverts them, as 8 bits
            if image.format == "TIFF" and image.mode.startswith("I") and getattr(image, "tag_v2", {}).get(262) == 0:
                raise ValueError("16 bits with white as 0, which is read inverted; save it with black as 0")
            # upstream: not reported as far as known (seen with Pillow 13.0); drop when it scales 12 bits to 16
            if image.format == "TIFF" and ";12" in str(image.tile):
                raise ValueError("12 bits, which are read nearly black; save it with 8 or 16 bits")
            if image.format == "TIFF" and 2 in np.atleast_1d(getattr(image, "tag_v2", {}).get(_SAMPLES, 1)):
                raise ValueError("signed pixels; save it with 8 or 16 bits without a sign")
            return decode(image)
    except UserError:
        raise
    except Exception as error:  # Pillow has no error of its own: what it raises depends on the format and the damage
        raise unreadable(source, error) from error


def unreadable(source: str | Source, error: Exception) -> Unreadable:
    """The sentence for a file that could not be read."""
    path = Path(source) if isinstance(source, str) else source
    if isinstance(path, Path) and not isinstance(error, PermissionError):
        if path.is_symlink() and not path.exists():
            return Unreadable(f"{path} is a link that leads nowhere; mend or remove it.")
        if not path.exists():
            return Unreadable(f"{path}: no such file.")
        if path.is_dir():
            return Unreadable(f"{path} is a folder, not an image.")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        if not path.read_bytes():
            return Unreadable(f"{path} is empty (0 bytes); replace or remove it.")
        reason = "not an image of a known kind"
    remedy = "allow yourself to read it" if isinstance(error, PermissionError) else "replace or remove it"
    return Unreadable(f"{path} cannot be read ({reason}); {remedy}.")
