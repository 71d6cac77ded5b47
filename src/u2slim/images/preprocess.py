"""What a net's input is made of: the one description that Python, exported files and the C++ program share."""

from dataclasses import dataclass

import cv2
import numpy as np

from u2slim.sizes import DEFAULT_SIDE, Size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """From RGB pixels in 0..255 to a net's input: a division, then mean and standard deviation of each channel.

    Args:
        size: the side of the square, or [height, width], that the net is made for.
        mean, std: of the channels R, G, B after the division.
        own_maximum: divide each image by its own largest value, as U2-Net does; otherwise by 255.
    """

    size: Size = DEFAULT_SIDE
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    own_maximum: bool = True

    def __call__(self, image_13HW: np.ndarray) -> np.ndarray:
        """The input (1, 3, H, W) float32 from float32 pixels of the same shape."""
        # The addend keeps a black image finite and vanishes in float32 beside any maximum of 1..255.
        divisor = image_13HW.max() + np.float32(1e-6) if self.own_maximum else np.float32(255)
        mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        return (image_13HW / divisor - mean) / std

    def to_metadata(self) -> dict[str, str]:
        """The entries of an ONNX file's metadata that say the same, without their prefix."""
        numbers = {name: " ".join(f"{value:g}" for value in getattr(self, name)) for name in ("mean", "std")}
        return numbers | {"divisor": "maximum" if self.own_maximum else "255"}

    @classmethod
    def from_metadata(cls, entries: dict[str, str], size: Size) -> "Preprocess":
        """What a file's entries say; without any it is U2-Net's, as files of the ecosystem's kind expect.

        Raises:
            ValueError: they do not have the form of `to_metadata`.
        """
        mean, std = (
            tuple(float(value) for value in entries[name].split()) if name in entries else usual
            for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        )
        divisor = entries.get("divisor", "maximum")
        if len(mean) != 3 or len(std) != 3 or not all(std) or divisor not in ("maximum", "255"):
            raise ValueError(f"mean {mean}, deviation {std}, divisor {divisor}")
        return cls(size, mean, std, divisor == "maximum")


U2NET_PREPROCESS = Preprocess()
ISNET_PREPROCESS = Preprocess(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), own_maximum=False)


def resized(image_HW3: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at (height, width), float32, by linear interpolation without antialiasing.

    That is OpenCV's `resize` of the image in float32, up to 1e-2 of 255. But only the rows that a net's few are made
    of are turned to float, so that an image of 200 megapixels needs no 2.4 GB.
    """
    height, width = size
    y = ((np.arange(height) + 0.5) * (image_HW3.shape[0] / height) - 0.5).astype(np.float32)
    above = np.floor(y).astype(int)
    rows = np.concatenate([above, above + 1]).clip(0, image_HW3.shape[0] - 1)
    both = cv2.resize(image_HW3[rows].astype(np.float32), (width, 2 * height), interpolation=cv2.INTER_LINEAR)
    below = (y - above).astype(np.float32)[:, None, None]
    return both[:height] * (1 - below) + both[height:] * below
