"""The picture at the end of `make demo`: python -m u2slim.report.demo folder=outputs/demo."""

import csv
import json
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
from u2slim.images.read import read_mask
from u2slim.models import U2Net
from u2slim.zoo import open_net

ROWS = 6
LOSS = f"train/{U2Net.outputs[0]}"


@research_command("demo")
def main(cfg: DictConfig) -> None:
    folder = Path(cfg.folder)
    pairs = find_pairs(get_data_set("sample_te"), "data/sample")
    pairs = pairs[:: len(pairs) // ROWS][:ROWS]
    checkpoints = sorted((folder / "train/checkpoints").glob("step_*.ckpt"))
    picture = folder / "demo.png"
    write_whole(picture, lambda partial: draw(columns(pairs, checkpoints, folder), losses(folder), partial))
    scores = json.loads((folder / "eval/metrics.json").read_text())["results"][0]
    print(f"\nmaxF {scores['maxF']:.3f}, MAE {scores['MAE']:.3f} on {scores['images']} generated test images. Files:")
    made = [checkpoints[-1].with_name("last.ckpt"), folder / "demo.onnx", folder / "eval/report.html"]
    for path in (*made, folder / "cut/masks", folder / "cut/cutouts"):
        size = f"{path.stat().st_size / 1e6:.2f} MB" if path.is_file() else f"{len(list(path.iterdir()))} files"
        print(f"  {path} ({size})")
    print(f"Look at the picture: {picture}")


def columns(pairs: list[Pair], checkpoints: list[Path], folder: Path) -> dict[str, list[np.ndarray]]:
    """What each column of the picture shows, by title."""
    images, masks = zip(*(load_pair(pair) for pair in pairs), strict=True)
    result = {"input": list(images), "truth": list(masks)}
    for checkpoint in checkpoints:
        segmenter = open_net(checkpoint).segmenter()
        result[checkpoint.stem.replace("step_", "step ")] = [segmenter(image) for image in images]
    result["ONNX in OpenCV dnn"] = [read_mask(folder / "cut/masks" / f"{pair.name}.png") for pair in pairs]
    return result


def losses(folder: Path) -> dict[str, list[float]]:
    """The logged loss of the net's answer by step."""
    with (folder / "train/csv/version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row[LOSS]]
    return {"step": [int(row["step"]) for row in rows], "loss": [float(row[LOSS]) for row in rows]}


def draw(shown: dict[str, list[np.ndarray]], curve: dict[str, list[float]], path: Path) -> None:
    figure = plt.figure(figsize=(2.1 * len(shown), 1.7 * ROWS + 2.6), layout="constrained")
    grid = figure.add_gridspec(ROWS + 1, len(shown), height_ratios=[1] * ROWS + [1.5])
    for column, (title, pictures) in enumerate(shown.items()):
        for row, pixels in enumerate(pictures):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=10)
    axes = figure.add_subplot(grid[ROWS, :])
    axes.plot(curve["step"], curve["loss"], linewidth=0.8)
    axes.set(xlabel="step", ylabel=LOSS, ylim=(0, None))
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
