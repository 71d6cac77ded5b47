"""What a net cuts out of scikit-image's photographs, as one picture: python -m u2slim.report.showcase out=FILE."""

from pathlib import Path

import cv2
import numpy as np
from omegaconf import DictConfig

from u2slim.cli import research_command
from u2slim.errors import UserError
from u2slim.images.write import write_image
from u2slim.report.demo_photos import SHOWN, shown
from u2slim.runtime import Runner
from u2slim.zoo import open_net

SIDE = 200  # pixels


@research_command("showcase")
def main(cfg: DictConfig) -> None:
    if cfg.out is None:
        raise UserError("Say where the picture goes: out=FILE.png.")
    runner, path = open_net(cfg.checkpoint).runner(), Path(cfg.out)
    write_image(path, np.hstack([column(photo, runner) for photo in shown().values()]))
    print(f"{cfg.checkpoint} on {', '.join(SHOWN)}: {path}")


def column(photo: np.ndarray, runner: Runner) -> np.ndarray:
    """The photo, its mask and its cut-out on a chessboard, one below the other, each `SIDE` high."""
    mask = runner(photo)[..., None]
    y, x = np.indices(photo.shape[:2]) // 12
    board = np.where((y + x) % 2, 205, 255)[..., None]
    tiles = (photo, np.repeat(mask * 255, 3, 2), photo * mask + board * (1 - mask))
    size = (round(photo.shape[1] * SIDE / photo.shape[0]), SIDE)
    return np.vstack([cv2.resize(tile.astype(np.uint8), size, interpolation=cv2.INTER_AREA) for tile in tiles])


if __name__ == "__main__":
    main()
