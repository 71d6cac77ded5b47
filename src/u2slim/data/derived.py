"""Photos made from others, each with its mask and each a function of what it is given: to choose between nets by."""

import cv2
import numpy as np

from u2slim.data.dataset import resize_image

Rng = np.random.Generator
Shown = tuple[np.ndarray, np.ndarray]  # RGB (H, W, 3) and mask (H, W), both uint8


def crop(image_HW3: np.ndarray, mask_HW: np.ndarray, rng: Rng) -> Shown:
    """A window of half to nine tenths of each side; of five tries the first that still holds half of the subject."""
    height, width = mask_HW.shape
    window = np.s_[:, :]
    for _ in range(5):
        rows, columns = (max(2, round(side * rng.uniform(0.5, 0.9))) for side in (height, width))
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        window = np.s_[top : top + rows, left : left + columns]
        if mask_HW[window].sum(dtype=np.int64) * 2 >= mask_HW.sum(dtype=np.int64):
            break
    return np.ascontiguousarray(image_HW3[window]), np.ascontiguousarray(mask_HW[window])


def recolour(image_HW3: np.ndarray, rng: Rng) -> np.ndarray:
    """Another light: gamma, temperature (red against blue) and saturation, each by up to about a half."""
    gamma, warmth, saturation = np.exp(rng.uniform(-0.4, 0.4)), np.exp(rng.uniform(-0.25, 0.25)), rng.uniform(0.4, 1.6)
    image_HW3 = (image_HW3.astype(np.float32) / 255) ** gamma * np.float32([warmth, 1, 1 / warmth])
    gray_HW1 = image_HW3.mean(2, keepdims=True)
    return np.rint(np.clip(gray_HW1 + saturation * (image_HW3 - gray_HW1), 0, 1) * 255).astype(np.uint8)


def paste(image_HW3: np.ndarray, mask_HW: np.ndarray, ground_HW3: np.ndarray, rng: Rng) -> np.ndarray:
    """A photo's subject where it was, over a ground that is resized to it and mirrored at random."""
    ground_HW3 = resize_image(ground_HW3, mask_HW.shape)
    if rng.random() < 0.5:
        ground_HW3 = ground_HW3[:, ::-1]
    alpha_HW1 = cv2.GaussianBlur(mask_HW, (0, 0), 0.7)[..., None].astype(np.float32) / 255
    return np.rint(ground_HW3 + alpha_HW1 * (image_HW3.astype(np.float32) - ground_HW3)).astype(np.uint8)


def ground(image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """A photo whose subject gives way to a blur of what is around it."""
    subject_HW = cv2.dilate((mask_HW > 12).astype(np.float32), np.ones((9, 9), np.uint8))
    behind_HW1 = 1 - subject_HW[..., None]
    sigma = 0.06 * max(mask_HW.shape)
    # A trace of the whole photo is for where a subject leaves nothing near it.
    weight_HW1 = cv2.GaussianBlur(behind_HW1, (0, 0), sigma)[..., None] + 1e-3
    blurred_HW3 = cv2.GaussianBlur(image_HW3 * behind_HW1, (0, 0), sigma) + 1e-3 * image_HW3.mean((0, 1))
    filled_HW3 = image_HW3 * behind_HW1 + blurred_HW3 / weight_HW1 * (1 - behind_HW1)
    return np.rint(np.clip(filled_HW3, 0, 255)).astype(np.uint8)
