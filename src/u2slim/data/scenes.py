"""A generated semantic set in CamVid's layout: a sky, a ground, and houses, trees and balls before them."""

import json
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from u2slim.data.labels import IGNORE, SCENES
from u2slim.errors import UserError
from u2slim.images.write import write_image

SCENES_VERSION = 1  # raise it whenever render_scene() draws other pictures, so that sets on disk are rebuilt
SIZE = (96, 128)  # height, width
SKY, GROUND, HOUSE, TREE, BALL = range(len(SCENES.names))
_THING_COLOURS = {  # RGB, of the lightest; each thing is darker by a part
    SKY: [(150, 190, 235), (210, 215, 225), (240, 200, 160)],
    GROUND: [(120, 110, 100), (150, 140, 110), (110, 140, 90)],
    HOUSE: [(190, 90, 70), (215, 205, 180), (140, 140, 150)],
    TREE: [(60, 120, 50), (90, 130, 40), (40, 90, 70)],
    BALL: [(250, 160, 20), (230, 40, 120), (40, 60, 220)],
}

Rng = np.random.Generator


def render_scene(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene, a pure function of (seed, index).

    Returns an RGB image (96, 128, 3) uint8 and its label image (96, 128) uint8: the classes of `SCENES`, and `IGNORE`
    along the horizon.
    """
    rng = np.random.default_rng([seed, index])
    (height, width), image = SIZE, np.zeros((*SIZE, 3), np.float32)
    labels = np.full(SIZE, SKY, np.uint8)
    horizon = int(height * rng.uniform(0.35, 0.65))
    labels[horizon:] = GROUND
    for kind in (SKY, GROUND):
        _paint(rng, image, labels == kind, kind)
    labels[horizon] = IGNORE
    for kind in sorted(rng.choice([HOUSE, TREE, BALL], rng.integers(3, 8))):
        shape = np.zeros(SIZE, np.uint8)
        x, size = int(rng.integers(width)), int(rng.integers(10, 22))
        if kind == HOUSE:
            cv2.rectangle(shape, (x - size, horizon - 2 * size), (x + size, horizon + size // 2), 1, -1)
        elif kind == TREE:
            cv2.rectangle(shape, (x - 2, horizon - size), (x + 2, horizon + size // 2), 1, -1)
            cv2.circle(shape, (x, horizon - size), 3 * size // 4, 1, -1)
        else:
            cv2.circle(shape, (x, int(rng.integers(horizon, height))), size // 2, 1, -1)
        labels[shape > 0] = kind
        _paint(rng, image, shape > 0, kind)
    image = cv2.GaussianBlur(image, (0, 0), 0.6) + rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), labels


def _paint(rng: Rng, image: np.ndarray, where: np.ndarray, kind: int) -> None:
    colour = np.array(_THING_COLOURS[kind][rng.integers(3)]) * rng.uniform(0.75, 1)
    cells = rng.normal(1, 0.12, (SIZE[0] // 6 + 1, SIZE[1] // 6 + 1)).astype(np.float32)
    image[where] = (cv2.resize(cells, SIZE[::-1])[..., None] * colour)[where]


def write_scenes(root: Path, train: int = 64, val: int = 16, seed: int = 0) -> None:
    """Make sure that `root/scenes` holds the generated set, `train` and `val` pairs, whole.

    Raises:
        UserError: there is something else in that folder.
    """
    home = Path(root).resolve() / "scenes"
    record = {"version": SCENES_VERSION, "seed": seed, "train": train, "val": val}
    if _is(home, record):
        return
    if home.exists() and not (home / "scenes.json").is_file():
        raise UserError(
            f"{home} holds something other than generated scenes: move it away, or choose another data.root."
        )
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scenes-", dir=home.parent) as scratch:
        fresh = Path(scratch) / "scenes"
        for part, first, count in (("train", 0, train), ("val", train, val)):
            for index in range(first, first + count):
                image, labels = render_scene(seed, index)
                write_image(fresh / part / f"{index:04d}.png", image)
                write_image(fresh / f"{part}annot" / f"{index:04d}.png", labels)
        (fresh / "scenes.json").write_text(json.dumps(record))
        if home.exists() and not _is(home, record):
            shutil.rmtree(home)
        try:
            fresh.rename(home)
        except OSError:
            if not _is(home, record):  # else another process was faster
                raise


def _is(home: Path, record: dict[str, int]) -> bool:
    try:
        return json.loads((home / "scenes.json").read_text()) == record
    except (OSError, ValueError):
        return False
