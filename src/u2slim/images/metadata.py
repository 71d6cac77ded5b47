"""What an image file says beside its pixels, and what of it may go along with a cut-out."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from u2slim.errors import UserError
from u2slim.images.decoders import opened

KINDS = ("exif", "icc", "dpi")
# EXIF tags that are about the pixels' own form, which a result does not have: size, bits, strips, tiles, orientation,
# resolution, compression, and the profile; `--keep` has some of these apart.
_OF_THE_PIXELS = (
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 282, 283, 284, 296),
    *(317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 334, 336, 338, 339, 340, 341, 347, 512, 513, 514, 529, 530),
    *(531, 532, 34675),
)


@dataclass(frozen=True)
class Metadata:
    """What a written file carries: EXIF data without the orientation, an RGB colour profile, pixels per inch."""

    exif: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None

    def __bool__(self) -> bool:
        return any((self.exif, self.icc, self.dpi))

    def options(self) -> dict[str, object]:
        """Pillow's, to save them."""
        named = {"exif": self.exif, "icc_profile": self.icc, "dpi": self.dpi}
        return {name: value for name, value in named.items() if value}


def read_metadata(data: bytes, kinds: Collection[str]) -> Metadata:
    """Of an image file's bytes those of `KINDS` that are asked for and that it has.

    Results are upright and RGB. So the orientation is left out, and profiles of other colours (CMYK, gray) are, too.
    """
    if not kinds:
        return Metadata()
    with opened(BytesIO(data)) as image:
        return Metadata(
            _exif(image) if "exif" in kinds else None,
            rgb_profile(image) if "icc" in kinds else None,
            _dpi(image) if "dpi" in kinds else None,
        )


def has_alpha(image: Image.Image) -> bool:
    """Whether it has transparency of any form."""
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch across and down, if the file says numbers that can be; they may be fractions by zero."""
    across, down = map(float, image.info.get("dpi", (0, 0)))
    # Pillow says 1 where a TIFF says nothing.
    return (across, down) if min(across, down) > 1 and math.isfinite(across + down) else None


def rgb_profile(image: Image.Image) -> bytes | None:
    """An image's colour profile, if it is one of RGB colours."""
    profile = image.info.get("icc_profile")
    return profile if profile and profile[16:20] == b"RGB " else None


def has_foreign_profile(image: Image.Image) -> bool:
    """Whether it has a colour profile of its own, and one that no RGB file can carry: of CMYK or gray."""
    profile = image.info.get("icc_profile")
    return profile is not None and profile[16:20] in (b"CMYK", b"GRAY")


def _exif(image: Image.Image) -> bytes | None:
    try:
        exif = image.getexif()
        for tag in _OF_THE_PIXELS:
            exif.pop(tag, None)
        return exif.tobytes() if exif else None
    except Exception as error:  # what Pillow raises depends on the damage
        raise UserError(f"its EXIF data are damaged ({error}); leave exif out of --keep.") from error


def pixels_to_srgb(pixels_HW3: np.ndarray, profile: bytes | None) -> np.ndarray:
    """RGB pixels with a colour profile of their own, as sRGB's; the same pixels, where there is none that is usable."""
    if not profile:
        return pixels_HW3
    image = Image.fromarray(pixels_HW3)
    image.info["icc_profile"] = profile
    try:
        return np.array(to_srgb(image))
    except ValueError:
        return pixels_HW3


def to_srgb(image: Image.Image) -> Image.Image:
    """The same colours in sRGB, by the image's own profile; the image itself, where it has none.

    Raises:
        ValueError: the profile is damaged or of other colours than the image.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    from PIL import ImageCms  # takes a moment

    if image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGBA" if has_alpha(image) else "RGB")
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        result = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"its colour profile cannot be used: {error}") from error
    assert result is not None  # as it always is without inPlace
    result.info.pop("icc_profile", None)
    return result
