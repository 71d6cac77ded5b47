"""Fast decoders for the plain cases, and what tells a damaged file where Pillow would not."""

import math
import zlib
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

# Where a PNG with any of these must be looked at by Pillow: transparency, turns in any of their forms, animation.
_NOT_PLAIN = (b"tRNS", b"eXIf", b"profile type exif", b"com.adobe.xmp", b"acTL")


def opened(file: str | Path | BytesIO) -> ImageFile.ImageFile:
    """As `Image.open`, and HEIC (HEIF), which iPhones write, where pillow-heif is installed.

    Raises:
        ValueError: it is HEIC, and pillow-heif is missing.
    """
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not is_heif(file):
            raise
    try:
        import pillow_heif
    except ImportError as error:
        raise ValueError("HEIC: pip install 'u2slim[heif]' brings what reads it, or save it as JPEG") from error
    pillow_heif.register_heif_opener()
    return Image.open(file)


def is_heif(file: str | Path | BytesIO) -> bool:
    """Whether a file begins as those of HEIF's family."""
    with nullcontext(file) if isinstance(file, BytesIO) else Path(file).open("rb") as opened_file:
        opened_file.seek(0)
        head = opened_file.read(12)
        opened_file.seek(0)
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def plain_jpeg(data: bytes, min_side: int) -> np.ndarray | None:
    """The same pixels as Pillow's in half its time; None where Pillow must have a closer look."""
    # Anywhere, not only before the first b"\xff\xda": thumbnails and profiles have that, too.
    if not data.startswith(b"\xff\xd8") or b"Exif" in data or b"tiff:Orientation" in data:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("YCbCr", "RGB", "Gray") and height * width <= _max_pixels():
            return simplejpeg.decode_jpeg(data, "RGB", min_height=min_side, min_width=min_side)
    except ValueError:
        pass  # truncated, perhaps
    return None


def jpeg_damage(data: bytes) -> str:
    """What libjpeg says of a JPEG that is read all the same, with garbage from the broken place on; else empty."""
    # upstream: https://github.com/python-pillow/Pillow/issues/9106 (closed: Pillow has no such check); drop when it has
    if data.startswith(b"\xff\xd8"):
        try:
            simplejpeg.decode_jpeg(data, "RGB", min_height=1, min_width=1)
        except ValueError as error:
            reason = str(error)
            # Stray bytes behind the last pixel harm nothing.
            if reason.startswith("Corrupt JPEG data") and not reason.endswith("extraneous bytes before marker 0xd9"):
                return reason
    return ""


def plain_png(data: bytes) -> np.ndarray | None:
    """The same pixels as Pillow's, of an 8-bit gray file and faster; None where Pillow must have a closer look."""
    header = data[: max(0, data.find(b"IDAT"))]
    is_plain = header.startswith(b"\x89PNG") and header[24:26] == b"\x08\x00"  # bits, and 0 for gray
    if not is_plain or any(chunk in data for chunk in _NOT_PLAIN):
        return None
    if int.from_bytes(header[16:20]) * int.from_bytes(header[20:24]) > _max_pixels() or not is_whole_png(data):
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # None of a damaged file


def is_whole_png(data: bytes) -> bool:
    """Whether every chunk agrees with its checksum, which Pillow does not look at in all of them."""
    # upstream: https://github.com/python-pillow/Pillow/issues/5800 (closed); drop when Pillow checks IDAT as it loads
    start, kind = 8, b""
    while kind != b"IEND":
        end = start + 8 + int.from_bytes(data[start : start + 4])
        kind = data[start + 4 : start + 8]
        if len(data) < end + 4 or zlib.crc32(memoryview(data)[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return False
        start = end + 4
    return True


def _max_pixels() -> float:
    limit = Image.MAX_IMAGE_PIXELS
    return math.inf if limit is None else 2 * limit  # where Pillow refuses
