"""Draw photos of goods as shops show them, and their masks: near-white backgrounds, soft shadows, many white things.

python -m benchmarks.products FOLDER

FOLDER gets images/, masks/ and pairs.csv, whose column `split` has the last sixth of the first `--count` as val, and
those held out as test. Picture k is a function of k alone. docs/lab/finetune.md has what training on buys there.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from u2slim.data import sample
from u2slim.images.write import write_image

SEED = 11
WHITE_SHARE = 0.5  # of things that are white or nearly so


def render_product(index: int) -> tuple[np.ndarray, np.ndarray]:
    """An RGB image (H, W, 3) uint8 and its mask (H, W) uint8, 0..255 with soft edges; sides are 280 to 360 pixels."""
    rng = np.random.default_rng([SEED, index])
    h, w = (int(side) for side in rng.integers(280, 361, 2))
    y, x = np.mgrid[0:h, 0:w].astype(np.float32) / max(h, w)
    angle = rng.uniform(0, 2 * np.pi)
    fall = rng.uniform(0, 0.08) * (0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    paper = rng.uniform(0.93, 1.0) * (1 - rng.uniform(0, 0.02, 3))
    image = (1 - fall)[..., None] * paper.astype(np.float32)
    mask = np.zeros((h, w), np.float32)
    for _ in range(2 if rng.random() < 0.25 else 1):
        alpha = sample._blur(sample._place(rng, h, w, rng.uniform(0.03, 0.3)), rng.uniform(0.4, 1.0))
        image = image * (1 - _shadow(rng, alpha)[..., None])
        image = sample._over(image, _surface(rng, alpha), alpha)
        mask = alpha + mask * (1 - alpha)
    image = sample._blur(image, rng.uniform(0, 0.6)) + rng.uniform(0, 0.01) * rng.standard_normal(image.shape)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), np.rint(mask * 255).astype(np.uint8)


def _surface(rng: np.random.Generator, alpha: np.ndarray) -> np.ndarray:
    """A lit surface (h, w, 3): nearly white, or of any colour."""
    if rng.random() < WHITE_SHARE:
        tint = rng.uniform(0.86, 0.98) * (1 - rng.uniform(0, 0.05, 3))
        pattern = rng.uniform(0, 0.06) * sample._noise(rng, *alpha.shape, rng.uniform(10, 60))
        surface = tint.astype(np.float32) * (1 - pattern)[..., None]
        return surface * (1 - 0.5 * (sample._light(rng, alpha) - 1))  # a shade, and no light beyond the paper's
    cell = np.sqrt(alpha.sum()) * rng.uniform(0.1, 0.5)
    return np.clip(sample._texture(rng, *alpha.shape, rng.uniform(0.2, 0.8), cell) * sample._light(rng, alpha), 0, 1)


def _shadow(rng: np.random.Generator, alpha: np.ndarray) -> np.ndarray:
    """What a thing on a table takes from the light (h, w): its outline, flattened at its foot and blurred."""
    rows = np.flatnonzero(alpha.max(1) > 0.5)
    foot, flat = float(rows[-1]), rng.uniform(0.15, 0.5)
    flattened = np.float32([[1, 0, rng.normal(0, 8)], [0, flat, foot * (1 - flat) + rng.uniform(0, 6)]])
    shadow = cv2.warpAffine(alpha, flattened, alpha.shape[::-1])
    return rng.uniform(0.05, 0.4) * sample._blur(shadow, rng.uniform(4, 12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=120, help="photos to train and validate on")
    parser.add_argument("--held-out", type=int, default=100)
    options = parser.parse_args()
    lines = ["image,mask,split"]
    for index in range(options.count + options.held_out):
        image, mask = render_product(index)
        write_image(options.folder / "images" / f"{index:04d}.jpg", image)
        write_image(options.folder / "masks" / f"{index:04d}.png", mask)
        split = "test" if index >= options.count else "val" if index >= options.count * 5 // 6 else "train"
        lines.append(f"images/{index:04d}.jpg,masks/{index:04d}.png,{split}")
    (options.folder / "pairs.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
