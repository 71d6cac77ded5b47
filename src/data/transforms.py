"""Augmentation recipes. Each maps uint8 image and mask to uint8 image and mask; a net normalises on its device."""

import albumentations as A
import cv2


def u2net(size: int = 320, crop: int = 288) -> A.Compose:
    """U2-Net's recipe: resize to a square without regard to aspect, flip both ways, random crop.

    The authors' loader flips vertically; their horizontal flips were made beforehand.
    """
    return A.Compose(
        [
            A.Resize(size, size, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST),
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.RandomCrop(crop, crop),
        ]
    )


def resize(size: int = 320) -> A.Compose:
    """What validation and inference do: only the resize."""
    return A.Compose([A.Resize(size, size, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST)])
