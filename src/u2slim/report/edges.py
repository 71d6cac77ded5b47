"""Nets side by side at full size, where a photo's edges are: python -m u2slim.report.edges out=FILE.jpg photos=DIR."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from omegaconf import DictConfig
from PIL import Image

from u2slim.cli import check_whole_number, research_command
from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.images.photos import find_all_photos
from u2slim.images.read import read_image
from u2slim.zoo import open_net

BACKDROP = (235, 235, 235)
GAP = 6  # pixels between tiles


@research_command("edges")
def main(cfg: DictConfig) -> None:
    if cfg.out is None or not cfg.photos or not cfg.nets:
        raise UserError("Say where the picture goes, out=FILE.jpg, of which photos, photos=DIR, and by which nets.")
    if Path(cfg.out).suffix.lower() not in (".png", ".jpg"):
        raise UserError(f"out={cfg.out}: give a name that ends in .png or .jpg.")
    check_whole_number(cfg, "side", 32)
    given = [cfg.photos] if isinstance(cfg.photos, str) else list(cfg.photos)
    photos = [read_image(path) for path, _ in find_all_photos(given)[0]]
    runners = [open_net(net).runner(cfg.runtime) for net in cfg.nets]
    rows = [row(photo, [runner(photo) for runner in runners], cfg.side) for photo in photos]
    write_whole(Path(cfg.out), lambda partial: Image.fromarray(np.vstack(rows)).save(partial, quality=88))
    print(f"{len(photos)} photos, each whole, a part of it, and as {' and '.join(cfg.nets)} cut it out: {cfg.out}")


def row(photo: np.ndarray, masks: Sequence[np.ndarray], side: int) -> np.ndarray:
    """The photo with a frame, and what is in the frame: as it is and by each mask, on grey."""
    top, left = finest(masks[-1], side)
    part = slice(top, top + side), slice(left, left + side)
    small = framed(photo, top, left, side)
    tiles = [small, photo[part]]
    for mask in masks:
        alpha = mask[part][..., None]
        tiles.append(np.rint(photo[part] * alpha + np.array(BACKDROP) * (1 - alpha)).astype(np.uint8))
    return np.hstack([cv2.copyMakeBorder(t, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255,) * 3) for t in tiles])


def framed(photo: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """The whole photo within a square of that side, the part marked."""
    width = max(2, round(max(photo.shape) / side * 2))
    marked = cv2.rectangle(photo.copy(), (left, top), (left + side, top + side), (255, 40, 40), width)
    scale = side / max(photo.shape)
    small = cv2.resize(marked, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    square = np.full((side, side, 3), 255, np.uint8)
    y, x = ((side - length) // 2 for length in small.shape[:2])
    square[y : y + small.shape[0], x : x + small.shape[1]] = small[:side, :side]
    return square


def finest(mask: np.ndarray, side: int) -> tuple[int, int]:
    """Where (top, left) a square of that side holds most of the mask's edge."""
    side = min(side, *mask.shape)
    edge = np.hypot(cv2.Sobel(mask, cv2.CV_32F, 1, 0), cv2.Sobel(mask, cv2.CV_32F, 0, 1))
    sums = cv2.boxFilter(edge, -1, (side, side), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT)
    inside = sums[: mask.shape[0] - side + 1, : mask.shape[1] - side + 1]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(top), int(left)


if __name__ == "__main__":
    main()
