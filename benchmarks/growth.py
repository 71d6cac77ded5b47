"""How cost grows, with the slope of each: python -m benchmarks.growth [--axes NAME ...] [--plot FILE]

A slope of 1 is linear: ten times as much takes ten times as long. It is fitted to the larger half of what is measured,
where the start no longer counts, and the last line of an axis is extrapolated by it. The axes:

photos      a folder of small photos, whole commands
megapixels  one photo, whole commands
side        the net's input, one image in onnxruntime, without loading
images      training images, from the start of train.py to its first step; the second start, which remembers them
workers     `u2slim cut --workers N` on a folder, whole commands
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.processes import CUT, generate, run
from u2slim.repository import REPOSITORY, TRAIN

Point = tuple[float, float, float]  # how much, seconds, MiB


def cut(source: Path, folder: Path, *options: str) -> tuple[float, float]:
    shutil.rmtree(folder / "out", ignore_errors=True)
    return run([*CUT, str(source), "-o", str(folder / "out"), *options])


def photos(folder: Path) -> Iterator[Point]:
    generate(folder / "all", "0.12", 300)
    for count in (10, 30, 100, 300):
        part = folder / str(count)
        part.mkdir()
        for index in range(count):
            os.link(folder / "all" / f"{index}.jpg", part / f"{index}.jpg")
        yield count, *cut(part, folder)


def megapixels(folder: Path) -> Iterator[Point]:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    generate(folder, "2", 1)
    with Image.open(folder / "0.jpg") as photo:
        base = np.asarray(photo)
    for tiles in (1, 2, 4, 7, 10):
        path = folder / f"{tiles}-tiles.jpg"
        Image.fromarray(np.tile(base, (tiles, tiles, 1))).save(path, quality=92)
        yield base.shape[0] * base.shape[1] * tiles**2 / 1e6, *cut(path, folder)


def side(folder: Path) -> Iterator[Point]:
    from u2slim.evaluation.entries import net_model, with_latencies
    from u2slim.zoo import open_net

    net = open_net("lite-two-thirds").net()
    for pixels in (160, 320, 640, 1280):
        model = net_model(net, pixels, "onnxruntime")
        yield pixels, with_latencies({"net": model}, 5)["net"].facts.milliseconds / 1000, 0


def images(folder: Path) -> Iterator[Point]:
    return ((count, *first) for count, first, _ in starts())


def images_again(folder: Path) -> Iterator[Point]:
    return ((count, *second) for count, _, second in starts())


@cache
def starts() -> list[tuple[int, tuple[float, float], tuple[float, float]]]:
    """Counts of training images, and what two starts take: links to a few pairs, as what is in them costs nothing."""
    from PIL import Image

    from u2slim.data.sample import render

    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(10):
            for kind, picture in zip(("photos", "masks"), render(0, index), strict=True):
                (folder / kind).mkdir(exist_ok=True)
                Image.fromarray(picture).save(folder / kind / f"{index}.png")
        for count in (1_000, 3_000, 10_000, 30_000):
            for kind in ("photos", "masks"):
                part = folder / str(count) / kind
                part.mkdir(parents=True)
                for index in range(count):
                    os.link(folder / kind / f"{index % 10}.png", part / f"{index}.png")
            command = [sys.executable, str(TRAIN), "data=own", "model.width=lite", "trainer=cpu", "data.size=32"]
            command += [f"data.images={folder / str(count) / 'photos'}", f"data.masks={folder / str(count) / 'masks'}"]
            command += ["data.batch_size=2", "data.val_count=10", "trainer.max_steps=1", "data.num_workers=0"]
            command += ["data.repeats_apart=false", f"hydra.run.dir={folder / 'run'}"]
            first, second = (run(command, {"XDG_CACHE_HOME": str(folder / "cache")}) for _ in range(2))
            found.append((count, first, second))
    return found


def workers(folder: Path) -> Iterator[Point]:
    generate(folder / "photos", "2", 40)
    for count in (1, 2, 4):
        yield count, *cut(folder / "photos", folder, "--workers", str(count))


# What each axis is called, who measures it, and how far it is extrapolated; None: not at all.
# `side` is the last, as it runs in this process: others would count its memory as theirs.
AXES: dict[str, tuple[str, Callable[[Path], Iterator[Point]], float | None]] = {
    "photos": ("photos", photos, 10_000),
    "megapixels": ("megapixels", megapixels, None),
    "workers": ("workers", workers, None),
    "images": ("training images, first start", images, 1_000_000),
    "images_again": ("training images, second start", images_again, 1_000_000),
    "side": ("side of the net's input", side, None),
}


def slope(points: Sequence[Point]) -> tuple[float, float]:
    """Of the logarithms of the larger half of the points, and their constant."""
    half = points[len(points) // 2 :] if len(points) > 3 else points
    much, seconds, _ = np.log(np.array(half) + 1e-9).T
    return tuple(np.polyfit(much, seconds, 1))


def draw(found: dict[str, list[Point]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3.4 * columns, 2.8 * rows), squeeze=False, layout="constrained"
    )
    for each in axes.flat[len(found) :]:
        each.set_visible(False)
    for each, (name, points) in zip(axes.flat, found.items(), strict=False):
        much, seconds, _ = zip(*points, strict=True)
        each.loglog(much, seconds, "o-", color="tab:blue")
        each.set_xticks(much, [f"{number:,.3g}" if number < 1000 else f"{number:,.0f}" for number in much])
        each.set_yticks(seconds, [f"{number:.2g}" if number < 10 else f"{number:.0f}" for number in seconds])
        each.minorticks_off()
        each.set_xlabel(AXES[name][0])
        each.set_title(f"slope {slope(points)[0]:.2f}", fontsize=9)
        each.grid(alpha=0.2)
    figure.supylabel("seconds")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), metavar="NAME")
    parser.add_argument("--plot", type=Path, default=REPOSITORY / "growth.png", help="where the curves go")
    options = parser.parse_args()
    found: dict[str, list[Point]] = {}
    for name in options.axes:
        title, measure, far = AXES[name]
        print(f"| {title} | seconds | MiB |\n|---|---|---|", flush=True)
        found[name] = []
        with tempfile.TemporaryDirectory() as folder:
            for much, seconds, memory in measure(Path(folder)):
                found[name].append((much, seconds, memory))
                print(f"| {much:,.4g} | {seconds:.2f} | {memory:.0f} |", flush=True)
        exponent, constant = slope(found[name])
        if far:
            print(f"| {far:,.0f}, extrapolated | {np.exp(constant) * far**exponent:.0f} | |")
        print(f"\nslope {exponent:.2f}\n", flush=True)
    draw(found, options.plot)
    print(f"wrote {options.plot}")


if __name__ == "__main__":
    main()
