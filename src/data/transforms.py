"""Augmentation recipes. Each maps uint8 image and mask to uint8 image and mask; a net normalises on its device."""

import albumentations as A
import cv2


def u2net(size: int = 320, crop: float = 0.9) -> A.Compose:
    """U2-Net's recipe: resize to a square without regard to aspect, flip both ways, random crop.

    The authors' loader flips vertically; their horizontal flips were made beforehand.

    Args:
        size: side of the square in pixels.
        crop: side of the crop as a share of the square's; 0.9 of 320 are the authors' 288 pixels.
    """
    side = round(size * crop)
    return A.Compose([_resize(size), A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomCrop(side, side)])


def resize(size: int = 320) -> A.Compose:
    """What validation and inference do: only the resize."""
    return A.Compose([_resize(size)])


def _resize(size: int) -> A.Resize:
    return A.Resize(size, size, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST)
