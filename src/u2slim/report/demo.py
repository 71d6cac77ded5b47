"""The picture at the end of `make demo`: python -m u2slim.report.demo folder=outputs/demo."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from omegaconf import DictConfig

from u2slim.cli import research_command
from u2slim.data.catalog import get_data_set
from u2slim.data.dataset import load_pair
from u2slim.data.pairs import Pair, find_pairs
from u2slim.files import write_whole
from u2slim.images.read import read_image, read_mask, read_photo
from u2slim.models import U2Net
from u2slim.zoo import open_net

ROWS = 3  # of generated images
LOSS = f"train/{U2Net.outputs[0]}"


@research_command("demo")
def main(cfg: DictConfig) -> None:
    folder = Path(cfg.folder)
    pairs = find_pairs(get_data_set("sample_te"), "data/sample")
    pairs = pairs[:: len(pairs) // ROWS][:ROWS]
    checkpoints = sorted((folder / "train/checkpoints").glob("step_*.ckpt"))
    blocks = photographs(folder), training(pairs, checkpoints)
    picture = folder / "demo.png"
    write_whole(picture, lambda partial: draw(blocks, losses(folder), partial))
    made = [folder / "small.onnx", folder / "small/cutouts", checkpoints[-1].with_name("last.ckpt")]
    print("\nMade:")
    for path in (*made, folder / "eval/report.html"):
        size = f"{path.stat().st_size / 1e6:.2f} MB" if path.is_file() else f"{len(list(path.iterdir()))} files"
        print(f"  {path} ({size})")
    print(f"Look at the picture: {picture}")


def photographs(folder: Path) -> dict[str, list[np.ndarray]]:
    """Of the photographs what each column shows: the published net's mask beside the small one's, and its cut-out."""
    small = f"{(folder / 'small.onnx').stat().st_size / 1e6:.1f} MB, by least squares"
    shown: dict[str, list[np.ndarray]] = {"photo": [], "published, 4.6 MB": [], small: [], "its cut-out": []}
    for path in sorted((folder / "photos/shown").iterdir()):
        masks = [read_mask(folder / net / "masks" / path.name) for net in ("dense", "small")]
        cutout = read_photo(folder / "small/cutouts" / path.name)[0]
        for pictures, pixels in zip(shown.values(), (read_image(path), *masks, cutout), strict=True):
            pictures.append(pixels)
    return shown


def training(pairs: list[Pair], checkpoints: list[Path]) -> dict[str, list[np.ndarray]]:
    """Of generated images what each column shows: the masks of a net at each checkpoint of its training."""
    images, masks = zip(*(load_pair(pair) for pair in pairs), strict=True)
    result = {"generated": list(images), "truth": list(masks)}
    for checkpoint in checkpoints[1:][-2:]:
        runner = open_net(checkpoint).runner()
        result[checkpoint.stem.replace("step_0", "step ")] = [runner(image) for image in images]
    return result


def losses(folder: Path) -> dict[str, list[float]]:
    """The logged loss of the net's answer by step."""
    with (folder / "train/csv/version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row[LOSS]]
    return {"step": [int(row["step"]) for row in rows], "loss": [float(row[LOSS]) for row in rows]}


def draw(blocks: Sequence[dict[str, list[np.ndarray]]], curve: dict[str, list[float]], path: Path) -> None:
    rows = sum(len(next(iter(block.values()))) for block in blocks)
    columns = max(len(block) for block in blocks)
    figure = plt.figure(figsize=(2.4 * columns, 1.7 * rows + 2.4), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1] * rows + [1.3])
    top = 0
    for block in blocks:
        for column, (title, pictures) in enumerate(block.items()):
            for row, pixels in enumerate(pictures):
                axes = figure.add_subplot(grid[top + row, column])
                axes.imshow(pixels, cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
                axes.set_axis_off()
                if row == 0:
                    axes.set_title(title, fontsize=10)
        top += len(pictures)
    axes = figure.add_subplot(grid[rows, :])
    axes.plot(curve["step"], curve["loss"], linewidth=0.8)
    axes.set(xlabel="step", ylabel=LOSS, ylim=(0, None))
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
