"""What an image file says beside its pixels, and what of it may go along with a cut-out."""

from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from u2slim.errors import UserError

KINDS = ("exif", "icc", "dpi")
_ORIENTATION = 0x0112  # the EXIF tag


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
    with Image.open(BytesIO(data)) as image:
        profile, dpi = image.info.get("icc_profile"), image.info.get("dpi")
        return Metadata(
            _exif(image) if "exif" in kinds else None,
            profile if "icc" in kinds and profile and profile[16:20] == b"RGB " else None,
            dpi if "dpi" in kinds and dpi and min(dpi) > 0 else None,
        )


def _exif(image: Image.Image) -> bytes | None:
    try:
        exif = image.getexif()
        exif.pop(_ORIENTATION, None)
        return exif.tobytes() if exif else None
    except Exception as error:  # what Pillow raises depends on the damage
        raise UserError(f"its EXIF data are damaged ({error}); leave exif out of --keep.") from error


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
        image = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        result = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"its colour profile cannot be used: {error}; leave out --srgb") from error
    assert result is not None  # as it always is without inPlace
    result.info.pop("icc_profile", None)
    return result
