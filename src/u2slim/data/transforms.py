"""Augmentation recipes: each maps a uint8 image and mask to uint8 ones of another size.

Those for saliency take images of a size to ones of round(size * crop), squares or not.

Every random number comes from the state that `set_random_state` sets, so that a sample is a function of it.
"""

import random
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Protocol

import albumentations as A
import cv2
import numpy as np

from u2slim.data.labels import IGNORE
from u2slim.errors import UserError
from u2slim.images.preprocess import IMAGENET_MEAN
from u2slim.sizes import Size, sides

Range = Sequence[float]  # lowest and highest


class Augment(Protocol):
    """An `A.Compose`, or what is used in the same way."""

    def set_random_state(self, generator: np.random.Generator, py_random: random.Random) -> None: ...

    def __call__(self, *, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]: ...


class FlipsAndCrop:
    """A flip each way and a random crop, in a third of the time that albumentations takes for it."""

    def __init__(self, shape: Size, upside_down: float = 0.5):
        self.shape = sides(shape)
        self.upside_down = upside_down
        self._generator = np.random.default_rng(0)

    def set_random_state(self, generator: np.random.Generator, py_random: random.Random) -> None:
        self._generator = generator

    def __call__(self, *, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        right, down, top, left = self._generator.random(4)
        height, width = self.shape
        y, x = int(top * (mask.shape[0] - height + 1)), int(left * (mask.shape[1] - width + 1))
        crops = (pixels[y : y + height, x : x + width] for pixels in (image, mask))
        sideways, upside_down = right < 0.5, down < self.upside_down
        if sideways or upside_down:
            around = -1 if sideways and upside_down else int(sideways)  # OpenCV: 1 sideways, 0 upside down
            crops = (cv2.flip(pixels, around) for pixels in crops)
        return dict(zip(("image", "mask"), crops, strict=True))


def u2net(size: Size = 320, crop: float = 0.9, upside_down: float = 0.5) -> FlipsAndCrop:
    """U2-Net's recipe: flips both ways and a random crop, of an image that has its size already.

    The authors' loader flips vertically (p = 0.5); their horizontal flips were made beforehand, as copies.

    Args:
        size: side of the square in pixels, or [height, width].
        crop: sides of the crop as a share of the image's; 0.9 of 320 are the authors' 288 pixels.
        upside_down: probability of the vertical flip; 0 for photos that are all upright.

    Raises:
        UserError: crop is not a share, or upside_down no probability.
    """
    if not 0 <= upside_down <= 1:
        raise UserError(f"data.augment.upside_down={upside_down}: give a probability, from 0 to 1.")
    return FlipsAndCrop(_cropped(size, crop), upside_down)


def strong(
    size: Size = 320,
    crop: float = 0.9,
    upside_down: float = 0.5,
    affine_p: float = 0.7,
    scale: Range = (0.8, 1.25),
    rotate: float = 15.0,
    occlusion_p: float = 0.2,
    holes: Sequence[int] = (1, 3),
    hole_side: Range = (0.08, 0.25),
    colour_p: float = 0.8,
    brightness: float = 0.3,
    contrast: float = 0.3,
    saturation: float = 0.4,
    hue: float = 0.04,
    blur_p: float = 0.2,
    blur_sigma: Range = (0.5, 2.0),
    motion: int = 9,
    noise_p: float = 0.3,
    noise_sigma: Range = (2.0, 12.0),
    jpeg_p: float = 0.3,
    jpeg_quality: Sequence[int] = (30, 90),
    soft_masks: bool = False,
) -> A.Compose:
    """U2-Net's recipe and, in a camera's order: scale and rotation, occlusion, colour, blur, noise, JPEG.

    The values *_p are probabilities; the others are strengths, drawn evenly from their range at every use.

    Args:
        size, crop, upside_down: as in `u2net`.
        scale, rotate: zoom (out and in equally often) and degrees either way, both about the centre; where the frame
            then reaches beyond the picture, image and mask continue as in a mirror.
        holes, hole_side: number of rectangles of one random colour each, and their sides as shares of the crop's.
        brightness, contrast, saturation: factors 1 - value to 1 + value.
        hue: turns of the colour circle, -value to value.
        blur_sigma, motion: either a Gaussian (standard deviation in pixels) or camera shake (length up to `motion`
            pixels, odd).
        noise_sigma: standard deviation in grey levels of 255, independent for each channel.
        jpeg_quality: 1 to 100.
        soft_masks: let the rotation interpolate masks into grey, too.

    Raises:
        UserError: a setting is out of its range.
    """
    chances = dict(
        upside_down=upside_down,
        affine_p=affine_p,
        occlusion_p=occlusion_p,
        colour_p=colour_p,
        blur_p=blur_p,
        noise_p=noise_p,
        jpeg_p=jpeg_p,
    )
    height, width = _cropped(size, crop)
    try:
        if wrong := [f"{name}={p}" for name, p in chances.items() if not 0 <= p <= 1]:
            raise ValueError(f"{', '.join(wrong)} must be from 0 to 1")
        if not 0 < min(hole_side) <= max(hole_side) < 1:  # from 1 on, albumentations would take it for pixels
            raise ValueError(f"hole_side={list(hole_side)} must be shares of the side between 0 and 1")
        return A.Compose(
            [
                A.HorizontalFlip(p=0.5),
                A.VerticalFlip(p=upside_down),
                # The mirror leaves no filler to learn from, and a mask marks only what the image shows.
                A.Affine(
                    scale=tuple(scale),
                    rotate=(-rotate, rotate),
                    keep_ratio=True,
                    balanced_scale=True,
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_LINEAR if soft_masks else cv2.INTER_NEAREST,
                    border_mode=cv2.BORDER_REFLECT_101,
                    p=affine_p,
                ),
                A.RandomCrop(height, width),
                # Masks of photos mark the visible part of an object. So the hidden part is erased from the mask, too:
                # kept, it would ask for an outline of which nothing is to be seen, and call the occluder salient.
                A.CoarseDropout(
                    num_holes_range=tuple(holes),
                    hole_height_range=tuple(hole_side),
                    hole_width_range=tuple(hole_side),
                    fill="random_uniform",
                    fill_mask=0,
                    p=occlusion_p,
                ),
                A.ColorJitter(brightness, contrast, saturation, hue, p=colour_p),
                # A.Defocus would take 14 ms. The kernels of shake must be centred, lest the image leave its mask.
                A.OneOf(
                    [
                        A.GaussianBlur(blur_limit=0, sigma_limit=tuple(blur_sigma), p=1),
                        A.MotionBlur(blur_limit=(3, motion), allow_shifted=False, direction_range=(0, 0), p=1),
                    ],
                    p=blur_p,
                ),
                Noise(tuple(noise_sigma), p=noise_p),
                A.ImageCompression("jpeg", quality_range=tuple(jpeg_quality), p=jpeg_p),
            ]
        )
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).partition(" [type=")[0].split())
        raise UserError(f"data.augment has a wrong setting: {reason}. See conf/augment/strong.yaml.") from error


class Around:
    """A recipe that is given, at times, a window around a part of the mask instead of the whole.

    Args:
        recipe: what makes samples of images and of windows alike, which are of the images' size.
        p: probability of a window, where the mask has a part.
        margin: lowest and highest width of what a window shows beside its part, as a share of the part's larger side.
        least: share of the image's sides that a window has at least, which bounds how much it is enlarged.
    """

    def __init__(self, recipe: Augment, p: float, margin: Range, least: float):
        self.recipe, self.p, self.margin, self.least = recipe, p, margin, least
        self._generator = np.random.default_rng(0)

    def set_random_state(self, generator: np.random.Generator, py_random: random.Random) -> None:
        self._generator = generator
        self.recipe.set_random_state(generator, py_random)

    def __call__(self, *, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        chance, which, wide, down, right = self._generator.random(5)
        if chance < self.p and (box := _part(mask, which)) is not None:
            y, x = self._window(box, mask.shape, wide, down, right)
            size = mask.shape[::-1]
            image = cv2.resize(image[y, x], size, interpolation=cv2.INTER_LINEAR)
            mask = cv2.resize(mask[y, x], size, interpolation=cv2.INTER_NEAREST_EXACT)
        return self.recipe(image=image, mask=mask)

    def _window(
        self, box: np.ndarray, shape: Sequence[int], wide: float, down: float, right: float
    ) -> tuple[slice, slice]:
        """Rows and columns of a window that holds a box and is as wide to its height as the image.

        The last three say, from 0 to 1, how wide its margin is and where the box lies in it.
        """
        left, top, width, height = map(int, box)
        low, high = self.margin
        margin = (low + wide * (high - low)) * max(width, height)
        share = max((height + margin) / shape[0], (width + margin) / shape[1], self.least)
        window = []
        for start, side, whole, place in ((top, height, shape[0], down), (left, width, shape[1], right)):
            length = min(max(round(share * whole), side), whole)
            first, last = max(0, start + side - length), min(start, whole - length)
            at = first + int(place * (last - first + 1))
            window.append(slice(at, at + length))
        return window[0], window[1]


def _part(mask: np.ndarray, which: float) -> np.ndarray | None:
    """The box (left, top, width, height) of one of a mask's connected parts; None: it has none.

    The greater the square root of a part's area, the more values of `which`, from 0 to 1, are for it.
    """
    stats = cv2.connectedComponentsWithStats((mask > 127).astype(np.uint8))[2][1:]
    if not len(stats):
        return None
    ends = np.sqrt(stats[:, cv2.CC_STAT_AREA]).cumsum()
    return stats[np.searchsorted(ends, which * ends[-1], "right"), :4]


def subject(
    size: Size = 320, around: float = 0.5, margin: Range = (0.3, 3.0), least: float = 0.25, **recipe: Any
) -> Around:
    """For small subjects: often a window around one of a mask's connected parts, and then what `strong` does.

    Args:
        size: as in `strong`.
        around: probability of a window. The whole image is taken else, and where the mask is empty.
        margin, least: see `Around`.
        recipe: the other settings of `strong`.

    Raises:
        UserError: a setting is out of its range.
    """
    if not 0 <= around <= 1:
        raise UserError(f"data.augment.around={around}: give a probability, from 0 to 1.")
    if not (len(margin) == 2 and 0 <= margin[0] <= margin[1]):
        raise UserError(f"data.augment.margin={list(margin)}: give the lowest and the highest margin, from 0.")
    if not 0 < least <= 1:
        raise UserError(f"data.augment.least={least}: give a share of the sides, above 0 and at most 1.")
    return Around(strong(size, **recipe), around, margin, least)


def scene(
    crop: Sequence[int] = (720, 720), mirror: bool = True, scaling: bool = True, scales: Range = (0.5, 2.0)
) -> A.Compose:
    """ICNet's recipe, for labels: a random scale, mirroring sideways (p = 0.5), and a random crop.

    Args:
        crop: (height, width) of what is made. Where a scaled image is smaller, ImageNet's mean colour is added below
            and to the right of it, as pixels of no class.
        mirror, scaling: leave one out.
        scales: the lowest and highest factor, drawn evenly.

    Raises:
        UserError: a setting is out of its range.
    """
    height, width = sides(crop, "data.crop")
    if not 0 < min(scales) <= max(scales):
        raise UserError(f"data.augment.scales={list(scales)}: give the lowest and the highest factor, above 0.")
    transforms = [
        A.HorizontalFlip(p=0.5 * bool(mirror)),
        A.RandomCrop(
            height,
            width,
            pad_if_needed=True,
            pad_position="top_left",
            fill=tuple(255 * share for share in IMAGENET_MEAN),
            fill_mask=IGNORE,
        ),
    ]
    if scaling:
        limits = tuple(scale - 1 for scale in scales)
        transforms.insert(0, A.RandomScale(limits, cv2.INTER_LINEAR, cv2.INTER_NEAREST_EXACT, p=1))
    return A.Compose(transforms)


class Noise(A.ImageOnlyTransform):
    """Gaussian noise in whole grey levels, for uint8 images.

    `A.GaussNoise` takes three times as long (float64), and all its noise comes from 65,536 seeds.

    Args:
        sigma: lowest and highest standard deviation in grey levels.
        p: probability.
    """

    # The normal distribution as 256 equally likely values, so that a random byte is a draw from it.
    QUANTILES = np.array([NormalDist().inv_cdf((level + 0.5) / 256) for level in range(256)])

    def __init__(self, sigma: tuple[float, float], p: float = 0.5):
        super().__init__(p=p)
        if not 0 <= sigma[0] <= sigma[1]:
            raise ValueError(f"sigma={sigma} must be rising, from 0")
        self.sigma = sigma

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        levels = np.rint(self.py_random.uniform(*self.sigma) * self.QUANTILES).astype(np.int16)
        draws = self.random_generator.integers(0, 256, params["shape"], np.uint8)
        return {"noise": cv2.LUT(draws, levels)}

    def apply(self, img: np.ndarray, noise: np.ndarray, **params) -> np.ndarray:
        return cv2.add(img, noise, dtype=cv2.CV_8U)


def _cropped(size: Size, crop: float) -> tuple[int, int]:
    height, width = (round(side * crop) for side in sides(size))
    if not 0 < crop <= 1 or min(height, width) < 1:
        raise UserError(f"data.augment.crop={crop} must be a share of the sides, above 0 and at most 1.")
    return height, width
