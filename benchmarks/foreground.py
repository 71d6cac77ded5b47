"""What `--colours ml` buys: python -m benchmarks.foreground [--root DATA]

Subjects with known colours and soft edges are laid over other photos (all of them generated, or ECSSD's below DATA),
cut out again by their true mattes, with the photo's own colours and with estimated ones, and laid over green. The
table has the mean absolute difference (0..255) to the true subject over green, where the matte is neither 0 nor 1.
"""

import argparse
from collections.abc import Iterator
from time import perf_counter

import cv2
import numpy as np

from u2slim.data.catalog import get_data_set
from u2slim.data.pairs import find_pairs
from u2slim.data.sample import render
from u2slim.images.masks import to_8bit
from u2slim.images.read import read_image, read_mask
from u2slim.images.refine import ForegroundML

GREEN = np.float32([0, 255, 0])


def subjects(root: str | None, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(photo, mask) of subjects, uint8."""
    if root is None:
        yield from (render(0, index) for index in range(count))
    else:
        yield from (
            (read_image(pair.image), read_mask(pair.mask)) for pair in find_pairs(get_data_set("ecssd"), root)[:count]
        )


def over(colours: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    return colours * alpha + background * (1 - alpha)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", help="folder that holds ECSSD; default: generated photos only")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--softness", type=float, nargs="+", default=[1, 3, 6], help="sigma of the edges in pixels")
    options = parser.parse_args()
    estimate, pairs = ForegroundML(), list(subjects(options.root, options.count))
    print("| edge | own colours | --colours ml | megapixels/s |\n|---|---|---|---|")
    for sigma in options.softness:
        errors, pixels, seconds = [], 0, 0.0
        for (photo, mask), (other, _) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
            matte = cv2.GaussianBlur(mask, (0, 0), sigma)
            alpha = (matte / np.float32(255))[..., None]
            background = cv2.resize(other, mask.shape[::-1])
            composite = to_8bit(over(photo, alpha, background) / 255)
            start = perf_counter()
            estimated = estimate(composite, matte)
            seconds, pixels = seconds + perf_counter() - start, pixels + mask.size
            edge, truth = (matte > 0) & (matte < 255), over(photo, alpha, GREEN)
            if edge.any():
                shown = (over(colours, alpha, GREEN) for colours in (composite, estimated))
                errors.append([np.abs(image - truth)[edge].mean() for image in shown])
        own, ml = np.mean(errors, axis=0)
        print(f"| sigma {sigma:g} | {own:.2f} | {ml:.2f} | {pixels / seconds / 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    main()
