"""The drawings and photo tables of the documentation: python docs/tools/pictures.py [NAME ...]

Written into docs/pictures, on white, so that they read well on light and dark pages. `front` needs edges.jpg there
(`python -m u2slim.report.edges`), the others nothing but what `make setup-dev` installs.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from u2slim.images.refine import GuidedFilter
from u2slim.report.demo_photos import shown
from u2slim.zoo import open_net

OUT = Path(__file__).parents[1] / "pictures"
INK, BLUE, ORANGE, GREY = "#222222", "#2f6db5", "#d9822b", "#e9edf2"
ROOMS = {
    "zoo": "opens nets\nby name",
    "compress": "makes them\nsmaller",
    "training": "lets them\nlearn more",
    "evaluation": "scores them",
    "export": "proves an\nONNX file",
    "runtime": "runs it\nanywhere",
    "cutout": "photo to\ncut-out",
}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A white page of that many inches, with coordinates in inches."""
    figure = plt.figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str = GREY, **style) -> None:
    shape = "round,pad=0,rounding_size=.06"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=colour, edgecolor=INK, linewidth=1))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, **{"fontsize": 9} | style)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 0})


def pipeline(path: Path) -> None:
    """The rooms of the package in the order in which a net goes through them."""
    figure, axes = canvas(11.4, 1.9)
    axes.text(0.55, 0.95, "published\nweights", ha="center", va="center", fontsize=10)
    for index, (room, does) in enumerate(ROOMS.items()):
        x = 1.4 + 1.43 * index
        arrow(axes, (x - 0.25 if index else x - 0.4, 0.95), (x, 0.95))
        box(axes, x, 0.4, 1.16, 1.1, "", "#dce8f6" if room != "cutout" else "#fbe6cf")
        axes.text(x + 0.58, 1.2, room, ha="center", va="center", fontsize=10, fontweight="bold")
        axes.text(x + 0.58, 0.75, does, ha="center", va="center", fontsize=9)
    figure.savefig(path)


def rsu(path: Path) -> None:
    """A residual U-block, and what stands in for each of its 3x3 convolutions."""
    figure, axes = canvas(11.4, 4.6)
    axes.text(2.9, 4.35, "A residual U-block (RSU) is a small U-Net with a shortcut", ha="center", fontsize=11)
    width, height = 0.95, 0.42
    left, right, top = 1.2, 3.75, 3.45
    box(axes, left, top, width, height, "3x3")
    for level in range(3):
        y = top - 0.75 * (level + 1)
        box(axes, left + 0.3 * level, y, width, height, "3x3")
        box(axes, right - 0.3 * level, y, width, height, "3x3")
        arrow(axes, (left + width + 0.3 * level, y + height / 2), (right - 0.3 * level, y + height / 2), BLUE)
        arrow(axes, (left + 0.3 * level + 0.4, y + 0.75), (left + 0.3 * level + 0.4, y + height))
        if level:
            arrow(axes, (right - 0.3 * level + 0.55, y + height), (right - 0.3 * level + 0.55, y + 0.75))
    box(axes, 2.48, 0.45, width, height, "3x3")
    arrow(axes, (2.25, 1.2), (2.6, 0.87))
    arrow(axes, (3.3, 0.87), (3.55, 1.2))
    axes.text(3.6, 0.5, "deepest: dilated", fontsize=8, color=INK)
    box(axes, right, top, width, height, "+", "#fbe6cf", fontsize=13)
    arrow(axes, (left + width, top + height / 2), (right, top + height / 2), ORANGE)
    arrow(axes, (right + 0.5, top - 0.33), (right + 0.5, top))
    axes.text(2.95, top + 0.28, "shortcut", fontsize=8, color=ORANGE, ha="center")
    axes.text(2.95, top - 0.47, "skip", fontsize=8, color=BLUE, ha="center")
    arrow(axes, (0.5, top + height / 2), (left, top + height / 2))
    arrow(axes, (right + width, top + height / 2), (right + width + 0.6, top + height / 2))
    axes.text(8.4, 4.35, "What stands in for each 3x3 convolution", ha="center", fontsize=11)
    variants = (
        ("standard", ["3x3, all inputs to all outputs"], "1"),
        ("grouped", ["3x3, half", "3x3, half"], "1/2"),
        ("low rank", ["1x1 to fewer", "3x3, few to few", "1x1 to all"], "any share"),
        ("depthwise-separable", ["3x3, each channel alone", "1x1 to all"], "about 1/8"),
    )
    for row, (name, parts, weights) in enumerate(variants):
        y = 3.4 - 0.95 * row
        axes.text(5.75, y + 0.62, f"{name}: {weights} of the weights" if row else f"{name}: as published", fontsize=9)
        each = 5.0 / len(parts)
        for index, part in enumerate(parts):
            box(axes, 5.75 + each * index, y, each - 0.2, 0.45, part, "#dce8f6")
            if index and name != "grouped":
                arrow(axes, (5.75 + each * index - 0.2, y + 0.22), (5.75 + each * index, y + 0.22))
    figure.savefig(path)


def least_squares(path: Path) -> None:
    """What a layer of the small net is asked to do, and from what it is solved for."""
    figure, axes = canvas(11.4, 3.5)
    for y, colour, name in ((2.35, "#dce8f6", "dense net"), (0.55, "#fbe6cf", "small net")):
        axes.text(0.95, y + 0.3, name, ha="center", va="center", fontsize=11, fontweight="bold")
        for index, text in enumerate(("layer 1", "layer 2", "layer 3")):
            box(axes, 2.0 + 1.75 * index, y, 1.2, 0.6, text, colour)
            arrow(axes, (1.5 + 1.75 * index if index else 1.55, y + 0.3), (2.0 + 1.75 * index, y + 0.3))
        arrow(axes, (6.7, y + 0.3), (7.25, y + 0.3))
    axes.text(6.95, 3.08, "Y: what it should be", fontsize=9, ha="center", color=BLUE)
    axes.text(5.05, 0.28, "X: what the layers before it make", fontsize=9, ha="center", color=ORANGE)
    axes.plot([5.3, 5.3], [0.42, 0.78], color=ORANGE, linewidth=1)
    axes.add_patch(Rectangle((5.42, 0.45), 1.36, 0.8, fill=False, edgecolor=ORANGE, linewidth=2))
    axes.annotate(
        "", (6.1, 1.25), (6.95, 2.6), arrowprops={"arrowstyle": "-|>", "color": BLUE, "connectionstyle": "arc3,rad=-.2"}
    )
    box(axes, 7.7, 0.55, 3.4, 2.4, "", "white")
    axes.text(9.4, 2.62, "Solved on a few photos,", ha="center", fontsize=10)
    axes.text(9.4, 2.32, "no masks, no training:", ha="center", fontsize=10)
    axes.text(9.4, 1.72, r"$\min_W\ \|XW - Y\|^2 + \lambda\,\|W - W_{dense}\|^2$", ha="center", fontsize=12)
    axes.text(9.4, 1.18, "The small layer sees the inputs that it will have,", ha="center", fontsize=8)
    axes.text(9.4, 0.92, "so it mends what the layers before it lost.", ha="center", fontsize=8)
    figure.savefig(path)


def stream(path: Path) -> None:
    """Sample k is computed from the seed and k, whoever asks."""
    figure, axes = canvas(11.4, 2.9)
    axes.text(
        5.7,
        2.62,
        "Sample k is a function of (seed, k): who computes it, and when, changes nothing",
        ha="center",
        fontsize=11,
    )
    for k in range(12):
        x, step = 0.7 + 0.84 * k, k // 4
        box(axes, x, 1.45, 0.66, 0.62, str(k), ("#dce8f6", "#fbe6cf")[k % 4 // 2], fontsize=11)
        if k % 4 == 0:
            axes.text(x + 1.6, 2.2, f"step {step}", ha="center", fontsize=9)
    axes.text(0.7, 0.95, "blue: first process", fontsize=9, color=BLUE)
    axes.text(2.6, 0.95, "orange: second process", fontsize=9, color=ORANGE)
    axes.text(
        0.7, 0.3,
        "Killed during step 1, a run continues with samples 4 to 7. One process alone would see the same twelve.",
        fontsize=9,
    )  # fmt: skip
    figure.savefig(path)


def front(path: Path) -> None:
    """Three rows of edges.jpg under the names of the nets."""
    large = np.asarray(Image.open(OUT / "edges.jpg"))
    side = large.shape[0] // 4
    titles = ("photo", "the framed part", "U²-Net lite, 4.6 MB", "isnet-s, 12 MB", "IS-Net, 88 MB")
    photos = [[large[side * r : side * (r + 1), side * c : side * (c + 1)] for c in range(5)] for r in (3, 1, 0)]
    table(path, titles, photos)


def refining(path: Path) -> None:
    """A photo's cut-out with the net's own mask and with a refined one."""
    runner, rows = open_net("u2netp").runner(), []
    for name, (top, left) in {"coffee": (20, 300), "chelsea": (0, 230)}.items():
        photo = shown()[name]
        mask = runner(photo)
        part = (slice(top, top + 200), slice(left, left + 200))
        cut = [photo * m[..., None] + 235 * (1 - m[..., None]) for m in (mask, GuidedFilter()(photo, mask))]
        rows.append([photo[part], *(each[part].astype(np.uint8) for each in cut)])
    table(path, ("a part of the photo", "cut out", "with --refine guided"), rows)


def table(path: Path, titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Pictures below their titles, each row as high as its first."""
    side = 240
    lines = [[at_height(picture, side) for picture in row] for row in rows]
    widths = [max(line[column].shape[1] for line in lines) for column in range(len(titles))]
    page = np.full((34 + (side + 6) * len(lines), sum(widths) + 6 * (len(widths) - 1), 3), 255, np.uint8)
    lefts = np.cumsum([0, *(width + 6 for width in widths[:-1])])
    for column, left in enumerate(lefts):
        for number, line in enumerate(lines):
            top = 34 + (side + 6) * number
            page[top : top + side, left : left + line[column].shape[1]] = line[column]
    figure, axes = canvas(page.shape[1] / 100, page.shape[0] / 100)
    axes.imshow(page, extent=(0, page.shape[1] / 100, 0, page.shape[0] / 100), aspect="auto")
    for title, left, width in zip(titles, lefts, widths, strict=True):
        axes.text((left + width / 2) / 100, page.shape[0] / 100 - 0.17, title, ha="center", va="center", fontsize=10)
    figure.savefig(path, dpi=100)


def at_height(picture: np.ndarray, height: int) -> np.ndarray:
    width = round(picture.shape[1] * height / picture.shape[0])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


PICTURES: dict[str, Callable[[Path], None]] = {
    "pipeline.svg": pipeline,
    "rsu.svg": rsu,
    "least-squares.svg": least_squares,
    "stream.svg": stream,
    "front.jpg": front,
    "refining.jpg": refining,
}


def main() -> None:
    wanted = sys.argv[1:] or [Path(name).stem for name in PICTURES]
    with matplotlib.rc_context({"svg.hashsalt": "u2slim", "font.family": "DejaVu Sans"}):
        for name, draw in PICTURES.items():
            if Path(name).stem in wanted:
                draw(OUT / name)
                print(OUT / name)


if __name__ == "__main__":
    main()
