"""From one photo to its mask and its cut-out: the one function behind every way in."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from u2slim.errors import UserError
from u2slim.images.masks import to_8bit
from u2slim.images.read import Loaded, read_photo
from u2slim.images.refine import Foreground, Refine
from u2slim.images.write import write_png
from u2slim.runtime import Runner
from u2slim.zoo import DEFAULT, NetHandle, open_net


@dataclass(frozen=True)
class Cutout:
    """A photo with its mask.

    Args:
        colours: the subject's colours (H, W, 3) uint8 RGB: the photo's own, or without the background's at soft edges.
        mask: (H, W) uint8, 255 where the net sees the subject.
        alpha: the cut-out's transparency (H, W) uint8: the mask, less what is transparent in the photo itself.
    """

    colours: np.ndarray
    mask: np.ndarray
    alpha: np.ndarray

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return f"<{type(self).__name__} of {width}x{height} pixels>"

    @property
    def rgba(self) -> np.ndarray:
        """The cut-out (H, W, 4) uint8."""
        result = cv2.cvtColor(self.colours, cv2.COLOR_RGB2RGBA)
        result[..., 3] = self.alpha
        return result

    def save(self, path: str | Path) -> None:
        """Write the cut-out as a PNG file, whole or not at all.

        Raises:
            UserError: the name does not end in `.png`, or the folder cannot be written.
        """
        path = Path(path).expanduser()
        if path.suffix.lower() != ".png":
            raise UserError(f"{path}: a cut-out is written as PNG; give a name that ends in .png.")
        write_png(path, self.rgba)


def cut(
    runner: Runner,
    image_HW3: np.ndarray,
    own_HW4: np.ndarray | None = None,
    refine: Refine | None = None,
    foreground: Foreground | None = None,
) -> Cutout:
    """The cut-out of an RGB uint8 photo.

    Args:
        runner: of a net that makes masks.
        image_HW3: what the net sees.
        own_HW4: the photo's own RGBA, where it has transparency: what is transparent there stays so.
        refine: brings the mask's edges to the photo's.
        foreground: estimates the subject's own colours.
    """
    soft = runner(image_HW3)
    mask = to_8bit(soft if refine is None else refine(image_HW3, soft))
    colours, alpha = image_HW3, mask
    if own_HW4 is not None:
        colours, alpha = own_HW4[..., :3], (mask.astype(np.uint16) * own_HW4[..., 3] // 255).astype(np.uint8)
    if foreground is not None:
        colours = foreground(colours, alpha)
    return Cutout(colours, mask, alpha)


def cut_out(
    photo: str | Path | bytes | Image.Image | np.ndarray,
    net: str | Path | NetHandle = DEFAULT,
    runtime: str = "auto",
    refine: Refine | None = None,
    foreground: Foreground | None = None,
) -> Cutout:
    """Cut the subject out of one photo.

    Args:
        photo: a file, its bytes, a picture of Pillow's, or an RGB array (H, W, 3) uint8.
        net: see `open_net`.
        runtime: see `NetHandle.runner`.
        refine, foreground: see `cut`.

    Raises:
        UserError: the photo cannot be read, or there is no such net or runtime.
    """
    return cut(open_net(net).runner(runtime), *_pixels(photo), refine=refine, foreground=foreground)


def _pixels(photo: str | Path | bytes | Image.Image | np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(photo, np.ndarray):
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
            raise UserError(f"An array must be RGB (H, W, 3) uint8, not {photo.shape} {photo.dtype}.")
        return photo, None
    if isinstance(photo, Image.Image):
        file = BytesIO()
        photo.save(file, "PNG")
        photo = file.getvalue()
    return read_photo(Loaded("the photo", photo) if isinstance(photo, bytes) else Path(photo).expanduser())
