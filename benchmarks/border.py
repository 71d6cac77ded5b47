"""What `--border` buys and costs: python -m benchmarks.border --root DATA [--nets NAME ...]

Photos of ECSSD and DUTS-TE below DATA, by how much of the photo's edge is the subject's: a close-up has a quarter or
more. The table has the mean IoU at a half, and in parentheses the mean absolute difference to the true mask.
"""

import argparse
from collections import defaultdict

import numpy as np

from u2slim.cutout.single import Style, cut
from u2slim.data.catalog import get_data_set
from u2slim.data.pairs import find_pairs
from u2slim.images.read import read_image, read_mask
from u2slim.runtime import fastest_runtime
from u2slim.zoo import DEFAULT, open_net

BORDERS = (0.0, 0.03, 0.05, 0.1)
SHARES = (0.0, 1e-9, 0.15, 0.25)  # of the edge, from which a group begins
TITLES = ("none of the edge", "under 15 %", "15 to 25 %", "from 25 % on")


def group(mask_HW: np.ndarray) -> int:
    """Which of the groups a true mask is in."""
    edge = np.concatenate([mask_HW[0], mask_HW[-1], mask_HW[:, 0], mask_HW[:, -1]])
    return int(np.searchsorted(SHARES, (edge >= 128).mean(), "right")) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds the data sets")
    parser.add_argument("--nets", nargs="+", default=[DEFAULT])
    parser.add_argument("--every", type=int, default=3, help="use every N-th of the photos that are not close-ups")
    options = parser.parse_args()
    pairs = [pair for name in ("ecssd", "duts_te") for pair in find_pairs(get_data_set(name), options.root)]
    print(f"| net | subject on | photos | {' | '.join(f'border {border:.0%}' for border in BORDERS)} |")
    print(f"|---|---|---|{'---|' * len(BORDERS)}", flush=True)
    for net in options.nets:
        runner = open_net(net).runner(fastest_runtime(len(pairs)))
        scores = defaultdict(list)
        for number, pair in enumerate(pairs):
            truth = read_mask(pair.mask)
            if (kind := group(truth)) < 2 and number % options.every:
                continue
            image = read_image(pair.image)
            if image.shape[:2] != truth.shape:
                continue
            for border in BORDERS:
                mask = cut(runner, image, style=Style(border)).mask
                both, either = ((mask >= 128) & (truth >= 128)).sum(), ((mask >= 128) | (truth >= 128)).sum()
                scores[kind, border].append((both / max(1, either), np.abs(mask / 255 - truth / 255).mean()))
        for kind, title in enumerate(TITLES):
            means = [np.mean(scores[kind, border], 0) for border in BORDERS]
            cells = " | ".join(f"{iou:.3f} ({mae:.3f})" for iou, mae in means)
            print(f"| {net} | {title} | {len(scores[kind, 0.0])} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
