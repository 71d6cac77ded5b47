"""How pixels become a net's input; Python, exported files and the C++ program share this description."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from u2slim.errors import UserError
from u2slim.sizes import DEFAULT_SIDE, Size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SCALES = ("255", "maximum", "1")


@dataclass(frozen=True)
class Preprocess:
    """How RGB pixels in 0..255 become a net's input: (pixels / divisor - mean) / std.

    Args:
        size: the size in pixels that the net is made for, the side of a square or [height, width].
        mean, std: three numbers each, for red, green and blue.
        own_maximum: True: the divisor is the image's own largest value, as in U2-Net; False: it is 255.
    """

    size: Size = DEFAULT_SIDE
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    own_maximum: bool = True

    def __call__(self, image_13HW: np.ndarray) -> np.ndarray:
        """The net's input (1, 3, H, W) float32, made of float32 pixels of that shape."""
        # The addend keeps a black image finite and vanishes in float32 beside any maximum of 1..255.
        divisor = image_13HW.max() + np.float32(1e-6) if self.own_maximum else np.float32(255)
        mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        return (image_13HW / divisor - mean) / std

    def __str__(self) -> str:
        """A description for messages."""
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"mean {mean} and deviation {std} after a division by {'its maximum' if self.own_maximum else 255}"

    def same_pixels(self, other: "Preprocess") -> bool:
        """Whether both treat pixels alike, to the digits that files store; sizes are not compared."""
        return self.to_metadata() == other.to_metadata()

    def to_metadata(self) -> dict[str, str]:
        """The entries for an ONNX file's metadata, without their prefix."""
        numbers = {name: " ".join(f"{value:g}" for value in getattr(self, name)) for name in ("mean", "std")}
        return numbers | {"divisor": "maximum" if self.own_maximum else "255"}

    @classmethod
    def given(cls, mean: object, std: object, scale: object) -> "Preprocess":
        """The same from three settings of a user.

        Args:
            mean, std: three numbers each, for red, green and blue, or one for all of them.
            scale: what pixels of 0..255 are divided by first: 255, `maximum` for the image's largest value, or 1.

        Raises:
            UserError: one of them is missing or impossible.
        """
        given = {"mean": mean, "std": std, "scale": scale}
        if missing := [name for name, value in given.items() if value is None]:
            raise UserError(
                f"mean, std and scale belong together, and {' and '.join(missing)} is not given: a net that takes "
                "pixels / 255 has mean 0, std 1 and scale 255."
            )
        means, deviations = _three("mean", mean), _three("std", std)
        if min(deviations) <= 0:
            raise UserError(f"std={std}: deviations are above 0.")
        if str(scale) not in SCALES:
            raise UserError(f"scale={scale} is not known; choose one of: {', '.join(SCALES)}.")
        if str(scale) == "1":  # the same, counted in parts of 255
            (r, g, b), (u, v, w) = means, deviations
            means, deviations = (r / 255, g / 255, b / 255), (u / 255, v / 255, w / 255)
        return cls(mean=means, std=deviations, own_maximum=str(scale) == "maximum")

    @classmethod
    def from_metadata(cls, entries: dict[str, str], size: Size) -> "Preprocess":
        """The same from an ONNX file's metadata; missing entries are as in U2-Net, which most such files expect.

        Raises:
            ValueError: the entries do not have the form of `to_metadata`.
        """
        mean, std = (
            tuple(float(value) for value in entries[name].split()) if name in entries else usual
            for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        )
        divisor = entries.get("divisor", "maximum")
        finite = all(map(math.isfinite, (*mean, *std)))
        if len(mean) != 3 or len(std) != 3 or not all(std) or not finite or divisor not in ("maximum", "255"):
            raise ValueError(f"mean {mean}, deviation {std}, divisor {divisor}")
        return cls(size, mean, std, divisor == "maximum")


def given_preprocess(mean: object, std: object, scale: object) -> Preprocess | None:
    """As `Preprocess.given`, but None where none of the three is given."""
    return None if (mean, std, scale) == (None, None, None) else Preprocess.given(mean, std, scale)


def _three(name: str, value: object) -> tuple[float, float, float]:
    """Three numbers, of one or three in a text with commas or in a list."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, Sequence) else [value]
    try:
        numbers = [float(str(part)) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise UserError(f"{name}={value}: give three numbers, for red, green and blue, or one for all of them.")
    red, green, blue = numbers * (3 // len(numbers))
    return red, green, blue


U2NET_PREPROCESS = Preprocess()
ISNET_PREPROCESS = Preprocess(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), own_maximum=False)


def resized(image_HW3: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at (height, width), float32, by linear interpolation without antialiasing.

    The result equals OpenCV's `resize` of the float32 image, up to 1e-2 of 255. But only the rows that are needed
    become float32, so that an image of 200 megapixels does not take 2.4 GB.
    """
    height, width = size
    y = ((np.arange(height) + 0.5) * (image_HW3.shape[0] / height) - 0.5).astype(np.float32)
    above = np.floor(y).astype(int)
    rows = np.concatenate([above, above + 1]).clip(0, image_HW3.shape[0] - 1)
    both = cv2.resize(image_HW3[rows].astype(np.float32), (width, 2 * height), interpolation=cv2.INTER_LINEAR)
    below = (y - above).astype(np.float32)[:, None, None]
    return both[:height] * (1 - below) + both[height:] * below
