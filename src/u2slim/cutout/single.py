"""From one photo to its mask and its cut-out: what every command and API call uses."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from u2slim.cutout.backgrounds import Background, open_background
from u2slim.errors import UserError
from u2slim.files import user_path
from u2slim.images.masks import hard, largest_part, stretched, subject_box, to_8bit
from u2slim.images.metadata import Metadata, pixels_to_srgb
from u2slim.images.refine import Foreground, Refine
from u2slim.images.write import ENDINGS, format_of, over, write_image
from u2slim.runtime import Runner

MAX_WITH_BORDER = 2**28  # pixels of a photo


@dataclass(frozen=True)
class Style:
    """How a mask and a cut-out are made of what a net sees; steps are done in the order of the arguments.

    Args:
        border: width of a border that the net sees round the photo, as a share of the photo's longer side. It has the
            mean colour of the photo's edge, and is for close-ups only (docs/guides/cut.md).
        refine: moves the mask's edges to the photo's.
        largest: keep only the mask's largest connected part.
        threshold: from 0 to 1: make the mask 0 below it and 255 from it on; None: leave soft edges.
        foreground: estimates the subject's own colours, without the background's.
        background: what is behind the subject; None: transparency.
        crop: crop to the subject's box with a margin, an int in pixels or a float as a share of the box's longer side;
            None: do not crop.
    """

    border: float = 0
    refine: Refine | None = None
    largest: bool = False
    threshold: float | None = None
    foreground: Foreground | None = None
    background: Background | None = None
    crop: int | float | None = None

    def __post_init__(self) -> None:
        for name, value in {"border": self.border, "threshold": self.threshold}.items():
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name}={value}: give a number from 0 to 1.")


@dataclass(frozen=True)
class Cutout:
    """The result for one photo: its mask, the cut-out subject, and ways to save it.

    Args:
        photo: what the net saw, (H, W, 3) uint8 RGB: the photo, over white where it is transparent.
        colours: the subject's colours, (H, W, 3) uint8 RGB: the photo's own, or without the background's at soft edges.
        mask: the mask, (H, W) uint8: 255 where the net sees the subject, 0 where it does not.
        alpha: the cut-out's opacity, (H, W) uint8: the mask, less where the photo itself is transparent.
        confidence: from 0 to 1, the net's mean probability inside the subject (before stretching); 0: no subject.
        icc: the photo's colour profile, which saved cut-outs keep; over a background they are in sRGB.
    """

    photo: np.ndarray
    colours: np.ndarray
    mask: np.ndarray
    alpha: np.ndarray
    confidence: float
    icc: bytes | None = None

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return f"<{type(self).__name__} of {width}x{height} pixels>"

    @property
    def rgba(self) -> np.ndarray:
        """The cut-out with transparency, (H, W, 4) uint8 RGBA."""
        result = cv2.cvtColor(self.colours, cv2.COLOR_RGB2RGBA)
        result[..., 3] = self.alpha
        return result

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The subject's box in pixels, (left, top, right, bottom), the last two just outside it; None: no subject."""
        return subject_box(self.alpha)

    @property
    def share(self) -> float:
        """How much of the picture the subject covers, from 0 to 1."""
        return float(self.alpha.mean()) / 255

    def on(self, background: str | Path | Background) -> np.ndarray:
        """The subject over a background, (H, W, 3) uint8 in sRGB, into which the photo's profile converts its colours.

        Args:
            background: a colour (`white`, `#00ff80`), a picture's file, or `blur` for the blurred photo itself.

        Raises:
            UserError: the background is none of these.
        """
        ground = open_background(background) if isinstance(background, str | Path) else background
        if not callable(ground):
            raise UserError(f"{ground!r} is no background: give a colour's name, a picture's file, or blur.")
        photo = pixels_to_srgb(self.photo, self.icc)
        colours = photo if self.colours is self.photo else pixels_to_srgb(self.colours, self.icc)
        return over(colours, self.alpha, ground(photo, self.alpha))

    def window(self, margin: int | float = 0) -> tuple[slice, slice]:
        """The rows and columns of the subject, to crop arrays with; all of them where there is no subject.

        Args:
            margin: room around the subject's box, an int in pixels or a float as a share of the box's longer side.
        """
        if (box := self.box) is None:
            return slice(None), slice(None)
        if margin < 0 or (isinstance(margin, float) and margin > 10):
            raise UserError(f"margin={margin}: give pixels, as 20, or a part of the subject's longer side, as 0.1.")
        left, top, right, bottom = box
        margin = round(margin * max(right - left, bottom - top)) if isinstance(margin, float) else margin
        return slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)

    def cropped(self, margin: int | float = 0) -> "Cutout":
        """The same cut-out, cropped to the subject; for `margin` see `window`."""
        part = self.window(margin)
        photo, colours, mask, alpha = (pixels[part] for pixels in (self.photo, self.colours, self.mask, self.alpha))
        return replace(self, photo=photo, colours=colours, mask=mask, alpha=alpha)

    def save(self, path: str | Path, background: str | Path | Background | None = None) -> None:
        """Write the cut-out to a file, whole or not at all.

        Args:
            path: the file, whose ending is the format: `.png`, `.webp`, `.tif`, `.avif`, or `.jpg` (no transparency).
            background: what to put behind the subject, see `on`; None: transparency, or white in a JPEG.

        Raises:
            UserError: the ending is another, or the folder cannot be written.
        """
        path = user_path(path)
        if (kind := format_of(path)) is None:
            raise UserError(f"{path}: the ending names the format; give one of {', '.join(ENDINGS)}.")
        if background is None:
            write_image(path, self.rgba, kind, Metadata(icc=self.icc))
        else:
            write_image(path, self.on(background), kind)


def cut(
    runner: Runner,
    image_HW3: np.ndarray,
    own_HW4: np.ndarray | None = None,
    style: Style | None = None,
    see: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Cutout:
    """Cut the subject out of an RGB uint8 photo, except for `crop` and `background`, which are left to the caller.

    Args:
        runner: runs a net that makes masks.
        image_HW3: what the net sees.
        own_HW4: the photo's own RGBA, where it has transparency: what is transparent there stays so.
        style: how the mask and the cut-out are made; None: the mask is as the net makes it.
        see: makes the small mask of what the net is shown; None: `Runner.small_mask`. That of a video remembers
            earlier frames.
    """
    style = style or Style()
    soft, confidence = _soft_mask(runner, image_HW3, style.border, see or runner.small_mask)
    mask = to_8bit(soft if style.refine is None else style.refine(image_HW3, soft))
    mask = largest_part(mask) if style.largest else mask
    mask = mask if style.threshold is None else hard(mask, style.threshold)
    colours, alpha = image_HW3, mask
    if own_HW4 is not None:
        colours, alpha = own_HW4[..., :3], (mask.astype(np.uint16) * own_HW4[..., 3] // 255).astype(np.uint8)
    if style.foreground is not None:
        colours = style.foreground(colours, alpha)
    return Cutout(image_HW3, colours, mask, alpha, confidence)


def _soft_mask(
    runner: Runner, image_HW3: np.ndarray, border: float, see: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, float]:
    """The mask (H, W) float32 and the net's confidence."""
    height, width = image_HW3.shape[:2]
    pad = round(border * max(height, width))
    if (height + 2 * pad) * (width + 2 * pad) > MAX_WITH_BORDER:
        raise UserError(f"a border of {border:.0%} would make it too large, as it is {width}x{height}; leave it out.")
    if pad:
        edge = np.concatenate([image_HW3[0], image_HW3[-1], image_HW3[:, 0], image_HW3[:, -1]])
        colour = edge.mean(0).round().tolist()
        image_HW3 = cv2.copyMakeBorder(image_HW3, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=colour)
    small = see(image_HW3)
    inside = stretched(small) >= 0.5
    confidence = float(small[inside].mean()) if inside.any() else 0.0
    return runner.enlarged(small, image_HW3.shape[:2])[pad : pad + height, pad : pad + width], confidence
