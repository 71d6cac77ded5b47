"""The picture at the end of `make demo`: python -m u2slim.report.demo folder=outputs/demo."""

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
from u2slim.zoo import open_net

ROWS = 3  # of generated images

Block = dict[str, list[np.ndarray]]  # the pictures of each column, by its title


@research_command("demo")
def main(cfg: DictConfig) -> None:
    folder = Path(cfg.folder)
    pairs = find_pairs(get_data_set("sample_te"), "data/sample")
    pairs = pairs[:: len(pairs) // ROWS][:ROWS]
    checkpoints = sorted((folder / "train/checkpoints").glob("step_*.ckpt"))
    blocks = {
        "A published net is made smaller, without training. Both cut out photos that they have not seen:": photographs(
            folder
        ),
        "A net of .7 MB learns from random weights:": training(pairs, checkpoints),
    }
    picture = folder / "demo.png"
    write_whole(picture, lambda partial: draw(blocks, partial))
    made = {
        folder / "first/cutouts": "photos, cut out by the net that comes with the package",
        folder / "small.onnx": "the net that was made smaller",
        folder / "small/cutouts": "photos, cut out by it",
        checkpoints[-1].with_name("last.ckpt"): "the net that was trained",
        folder / "eval/report.html": "all nets side by side",
    }
    print("\nMade:")
    for path, what in made.items():
        size = f"{path.stat().st_size / 1e6:.2f} MB" if path.is_file() else f"{len(list(path.iterdir()))} files"
        print(f"  {path}: {what}, {size}")
    print(f"Look at the picture: {picture}")
    print(
        "Next: u2slim cut YOUR_PHOTO.jpg, and docs/guides/tutorial.md, which leads from 40 photos of your own to a net."
    )


def photographs(folder: Path) -> Block:
    """The published net's masks of the photographs beside the small one's, and its cut-outs."""
    small = f"small net, {(folder / 'small.onnx').stat().st_size / 1e6:.1f} MB"
    shown: Block = {"photo": [], "published net, 4.6 MB": [], small: [], "cut out by the small net": []}
    for path in sorted((folder / "photos/shown").iterdir()):
        masks = [read_mask(folder / net / "masks" / path.name) for net in ("dense", "small")]
        cutout = read_photo(folder / "small/cutouts" / path.name)[0]
        for pictures, pixels in zip(shown.values(), (read_image(path), *masks, cutout), strict=True):
            pictures.append(pixels)
    return shown


def training(pairs: list[Pair], checkpoints: list[Path]) -> Block:
    """The masks that a net makes of generated images, early in its training and at its end."""
    images, masks = zip(*(load_pair(pair) for pair in pairs), strict=True)
    result = {"generated image": list(images), "its true mask": list(masks)}
    for checkpoint in (checkpoints[0], checkpoints[-1]):
        runner = open_net(checkpoint).runner()
        result[f"after {int(checkpoint.stem.removeprefix('step_'))} steps"] = [runner(image) for image in images]
    return result


def draw(blocks: dict[str, Block], path: Path) -> None:
    heights = [len(next(iter(block.values()))) for block in blocks.values()]
    columns = max(len(block) for block in blocks.values())
    figure = plt.figure(figsize=(2.4 * columns, 1.75 * sum(heights) + 1.2), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights)
    for part, height, (sentence, block) in zip(parts, heights, blocks.items(), strict=True):
        part.suptitle(sentence, fontsize=12, fontweight="bold", x=0.01, ha="left")
        grid = part.subplots(height, columns)
        for column, (title, pictures) in enumerate(block.items()):
            grid[0, column].set_title(title, fontsize=10)
            for row, pixels in enumerate(pictures):
                grid[row, column].imshow(pixels, cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
        for axes in grid.flat:
            axes.set_axis_off()
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
