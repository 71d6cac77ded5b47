"""Photos a second of `u2slim cut` against a plain loop: python -m benchmarks.cutting [--photos DIR] [--cutout]

The plain loop reads, runs the net on all cores, and writes, one photo after the other: once with Pillow's PNG encoder
and once with ours. All three take turns on the same photos, generated ones by default, and the best turn counts. The
masks must come out the same.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import torch
from loky import cpu_count
from PIL import Image

from benchmarks.processes import SIZES, generate
from u2slim.cutout.batch import cut_all
from u2slim.cutout.cutter import Cutter
from u2slim.images.photos import find_photos
from u2slim.images.read import read_gray, read_image
from u2slim.images.write import write_image
from u2slim.runtime import ONNX_RUNTIMES
from u2slim.runtime.runner import threads_each
from u2slim.zoo import open_net


def pillow_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=4)


def plain(cutter: Cutter, photos: list[tuple[Path, Path]], write: Callable[[Path, np.ndarray], None]) -> None:
    cv2.setNumThreads(cpu_count())
    torch.set_num_threads(cpu_count())
    for photo, name in photos:
        image = read_image(photo)
        mask = np.rint(cutter.runner(image) * 255).astype(np.uint8)
        for path, pixels in zip(cutter.paths(photo, name), (mask, np.dstack([image, mask])), strict=False):
            write(path, pixels)


def ours(cutter: Cutter, photos: list[tuple[Path, Path]], source: Path, workers: int) -> None:
    each = threads_each(workers) or cpu_count()
    cv2.setNumThreads(each)
    torch.set_num_threads(each)
    cut_all(cutter, str(source), photos, workers, redo=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photos; default: generated ones")
    parser.add_argument(
        "--megapixels", nargs="+", choices=SIZES, default=["0.12", "2", "12"], help="sizes of generated photos"
    )
    parser.add_argument("--count", type=int, default=8, help="number of photos")
    parser.add_argument("--net", default="lite-half")
    parser.add_argument("--runtimes", nargs="+", choices=("torch", *ONNX_RUNTIMES), default=["torch", "opencv"])
    parser.add_argument("--workers", type=int, default=cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cutout", action="store_true", help="also write the cut-outs")
    options = parser.parse_args()
    print("| runtime | photos | plain, Pillow's PNG | plain, our PNG | u2slim cut | ratio | ratio, our PNG |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for runtime in options.runtimes:
        single, shared = (open_net(options.net).runner(runtime, streams=streams) for streams in (1, options.workers))
        for megapixels in [options.photos.name] if options.photos else options.megapixels:
            with tempfile.TemporaryDirectory() as folder:
                source = options.photos or Path(folder, "photos")
                if options.photos is None:
                    generate(source, megapixels, options.count)
                photos = find_photos(source)[: options.count]
                cutters = [
                    Cutter(runner, Path(folder, name), cutout=options.cutout)
                    for runner, name in ((single, "pillow"), (single, "plain"), (shared, "ours"))
                ]
                turns = [
                    lambda c=cutters[0], p=photos: plain(c, p, pillow_png),
                    lambda c=cutters[1], p=photos: plain(c, p, write_image),
                    lambda c=cutters[2], p=photos, s=source: ours(c, p, s, options.workers),
                ]
                speeds = [len(photos) / seconds for seconds in best(turns, options.rounds)]
                for path in cutters[1].output.glob("masks/*.png"):
                    mask = read_gray(cutters[2].output / "masks" / path.name).astype(int)
                    if (off := np.abs(read_gray(path) - mask).max()) > 1:
                        raise SystemExit(f"{path.name} is {off} levels off")
            ratios = [f"**{speeds[2] / speed:.2f}**" for speed in speeds[:2]]
            print(
                f"| {runtime} | {megapixels} | " + " | ".join([f"{s:.2f}" for s in speeds] + ratios) + " |", flush=True
            )


def best(turns: list[Callable[[], None]], rounds: int) -> list[float]:
    """The shortest time of each after one round to warm up."""
    times: list[list[float]] = [[] for _ in turns]
    for _ in range(rounds + 1):
        for taken, turn in zip(times, turns, strict=True):
            start = perf_counter()
            turn()
            taken.append(perf_counter() - start)
    return [min(taken[1:]) for taken in times]


if __name__ == "__main__":
    main()
