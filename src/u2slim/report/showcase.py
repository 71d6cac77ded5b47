"""What a net cuts out of scikit-image's photographs, as one picture: python -m u2slim.report.showcase FILE [NET]."""

import sys
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from u2slim.images.write import write_png
from u2slim.runtime import Segmenter
from u2slim.zoo import DEFAULT, open_net

# Free of rights: NASA, Stefan van der Walt, Rachel Michetti, SpaceX, as scikit-image's documentation has it.
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
SIDE = 200  # pixels


def main(path: Path, net: str) -> None:
    segmenter = open_net(net).segmenter()
    write_png(path, np.hstack([column(getattr(data, name)(), segmenter) for name in PHOTOS]))
    print(f"{net} on {', '.join(PHOTOS)}: {path}")


def column(photo: np.ndarray, segmenter: Segmenter) -> np.ndarray:
    """The photo, its mask and its cut-out on a chessboard, one below the other, each `SIDE` high."""
    mask = segmenter(photo)[..., None]
    y, x = np.indices(photo.shape[:2]) // 12
    board = np.where((y + x) % 2, 205, 255)[..., None]
    tiles = (photo, np.repeat(mask * 255, 3, 2), photo * mask + board * (1 - mask))
    size = (round(photo.shape[1] * SIDE / photo.shape[0]), SIDE)
    return np.vstack([cv2.resize(tile.astype(np.uint8), size, interpolation=cv2.INTER_AREA) for tile in tiles])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else DEFAULT)
