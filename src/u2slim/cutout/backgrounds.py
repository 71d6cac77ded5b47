"""What a cut-out can be laid over: a colour, a picture, or the photo itself out of focus."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from PIL import ImageColor

from u2slim.errors import UserError
from u2slim.files import file_digest, user_path
from u2slim.images.read import read_photo

# From an RGB photo (H, W, 3) uint8 and the cut-out's alpha (H, W) uint8: the ground, RGB of the photo's size.
Background = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Colour:
    """One colour, RGB."""

    rgb: tuple[int, int, int]

    def __call__(self, photo_HW3: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
        return np.full(photo_HW3.shape, self.rgb, np.uint8)


@dataclass(frozen=True)
class Picture:
    """A picture, as large as covers the photo, of which the middle shows.

    Args:
        path: its file.
        digest: of the file, so that another picture of the same name is another background.
    """

    path: Path
    digest: str = ""

    @cached_property
    def pixels(self) -> np.ndarray:
        return read_photo(self.path, srgb=True)[0]

    def __call__(self, photo_HW3: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
        (height, width), (own_height, own_width) = photo_HW3.shape[:2], self.pixels.shape[:2]
        scale = max(height / own_height, width / own_width)
        part = round(min(own_height, height / scale)), round(min(own_width, width / scale))
        top, left = ((own - shown) // 2 for own, shown in zip((own_height, own_width), part, strict=True))
        middle = self.pixels[top : top + max(1, part[0]), left : left + max(1, part[1])]
        smaller = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(middle, (width, height), interpolation=smaller)


@dataclass(frozen=True)
class Blur:
    """The photo's own background out of focus, into which the subject's colours do not run.

    Args:
        sigma: of the Gaussian, as a part of the photo's longer side.
    """

    sigma: float = 0.02

    def __call__(self, photo_HW3: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
        # So blurred, a photo of 256 pixels looks like a large one.
        height, width = alpha_HW.shape
        scale = min(1.0, 256 / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        share = 1 - cv2.resize(alpha_HW, size, interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
        colours = cv2.resize(photo_HW3, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        sigma = max(0.5, self.sigma * max(size))
        # Where there is nothing but subject around, its own colours are better than none.
        share = share + np.float32(1e-3)
        both = cv2.GaussianBlur(np.dstack([colours * share, share]), (0, 0), sigma)
        blurred = both[..., :3] / both[..., 3:]
        levels = np.rint(blurred).clip(0, 255).astype(np.uint8)
        return cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)


def open_background(text: str | Path) -> Background:
    """What a word stands for: `blur`, a picture's file, or a colour (`white`, `#00ff80`, `rgb(0,255,0)`).

    Raises:
        UserError: it is none of them, or the picture cannot be read.
    """
    path = user_path(text)
    if str(text) != "blur" and path.is_file():
        picture = Picture(path, file_digest(path, "sha256"))
        _ = picture.pixels  # so that a broken one is told before the first photo
        return picture
    return plain_background(str(text), "a picture's file, ")


def plain_background(text: str, others: str = "") -> Background:
    """The same without files, which a server's guests have no business with.

    Args:
        text: `blur` or a colour.
        others: what else the sentence is to offer.
    """
    if text == "blur":
        return Blur()
    try:
        red, green, blue, *transparency = ImageColor.getrgb(text)
        if transparency not in ([], [255]):
            raise ValueError("transparent")
    except ValueError as error:
        raise UserError(
            f"{text} is no background: give an opaque colour (white, '#00ff80'), {others}or blur."
        ) from error
    return Colour((red, green, blue))
