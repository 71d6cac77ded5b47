"""A picture of what an augmentation does: python -m u2slim.data.preview augment=strong (all settings: --help)."""

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from u2slim.cli import check_whole_number, output_dir, research_command
from u2slim.data.datamodule import PairsDataModule
from u2slim.data.dataset import TrainStream
from u2slim.data.pairs import Pair
from u2slim.data.transforms import Augment
from u2slim.errors import UserError
from u2slim.images.colours import coloured, overlay
from u2slim.images.write import write_image
from u2slim.sizes import DEFAULT_SIDE, Size, sides

log = logging.getLogger(__name__)

PAPER, INK, LINE = (245, 245, 245), (40, 40, 40), (255, 0, 255)
GAP, CAPTION, TITLE = 8, 18, 30  # pixels: between cells, for the text under a cell, for the line on top
MIN_CELL = 192  # pixels: images of a smaller side are enlarged, so that their captions fit


def preview(
    pairs: Sequence[Pair], size: Size, augment: Augment | None, seed: int, draws: int, title: str = ""
) -> np.ndarray:
    """A sheet (H, W, 3) RGB uint8 with a row per pair: photo, mask, and samples with the mask's outline.

    Classes are shown in their colours, laid over samples.

    The samples are those of a training run on these pairs alone: numbers 0 to len(pairs) * draws - 1 of its stream.
    """
    plain = _samples(TrainStream(pairs, size, None, seed), 1)
    drawn = _samples(TrainStream(pairs, size, augment, seed), draws)
    zoom = -(-MIN_CELL // min(sides(size)))
    labels = pairs[0].data_set.labels
    rows = []
    for name, [(_, photo, mask)] in sorted(plain.items()):
        if labels:
            cells = [_cell(photo, name, zoom), _cell(coloured(mask, labels.palette), "classes", zoom)]
            cells += [_cell(overlay(im, m, labels.palette), f"sample {k}", zoom) for k, im, m in drawn[name]]
        else:
            cells = [_cell(photo, name, zoom), _cell(cv2.merge([mask] * 3), "mask", zoom)]
            cells += [_cell(image, f"sample {k}", zoom, mask) for k, image, mask in drawn[name]]
        height = max(cell.shape[0] for cell in cells) + GAP
        rows.append(np.hstack([_framed(cell, height) for cell in cells]))
    made = (
        "{}x{}".format(*next(iter(drawn.values()))[0][2].shape) if labels else next(iter(drawn.values()))[0][2].shape[0]
    )
    top = np.full((TITLE, rows[0].shape[1], 3), PAPER, np.uint8)
    title = f"{title}  seed={seed}  {size} to {made} pixels  {'' if labels else 'outlined: the mask'}"
    sheet = np.vstack([_written(top, title, GAP, 20, 0.5), *rows])
    return cv2.copyMakeBorder(sheet, 0, 0, 0, GAP, cv2.BORDER_CONSTANT, value=PAPER)


def _samples(stream: TrainStream, draws: int) -> dict[str, list[tuple[int, np.ndarray, np.ndarray]]]:
    """By name: number, image (S, S, 3) and mask (S, S), uint8, of the stream's first samples."""
    found: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for k in range(len(stream) * draws):
        sample = stream[k]
        image = sample["image"].numpy()
        found.setdefault(sample["name"], []).append((k, image, sample["mask"][0].numpy()))
    return found


def _cell(image: np.ndarray, caption: str, zoom: int, mask: np.ndarray | None = None) -> np.ndarray:
    """The image, enlarged by a whole number, with the mask's outline, and a caption below it."""
    image = image.repeat(zoom, 0).repeat(zoom, 1)
    if mask is not None:
        inside = (mask > 127).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
        edges, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        for colour, width in ((INK, 3), (LINE, 1)):
            cv2.drawContours(image, edges, -1, colour, width)
    letters = image.shape[1] // 7
    caption = caption if len(caption) <= letters else f"..{caption[2 - letters :]}"
    text = np.full((CAPTION, image.shape[1], 3), PAPER, np.uint8)
    return np.vstack([image, _written(text, caption, 1, 13, 0.4)])


def _framed(cell: np.ndarray, height: int) -> np.ndarray:
    below = height - cell.shape[0]
    return cv2.copyMakeBorder(cell, 0, below, GAP, 0, cv2.BORDER_CONSTANT, value=PAPER)


def _written(pixels: np.ndarray, text: str, x: int, y: int, size: float) -> np.ndarray:
    return cv2.putText(pixels, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)


def chosen_pairs(data: PairsDataModule, count: int) -> list[Pair]:
    """`count` pairs drawn with the data's seed: training ones, or of a set that is only scored its test pairs."""
    if data.train_sets:
        data.prepare_data()
        data.setup()
        pairs = data.train_pairs
    else:
        pairs = [pair for found in data.test_pairs().values() for pair in found]
    return [pairs[i] for i in np.random.default_rng(data.seed).permutation(len(pairs))[:count]]


def write_preview(cfg: DictConfig, path: Path) -> None:
    """Draw what a config of conf/preview.yaml asks for into `path`.

    Raises:
        UserError: a setting is wrong, the data are missing, or the file cannot be written.
    """
    for name in ("images", "draws"):
        check_whole_number(cfg, name, 1)
    if path.suffix.lower() != ".png":
        raise UserError(f"out={path}: the picture is a PNG; give a name that ends in .png.")
    if "manifest" in cfg.data:  # a picture leaves no list of validation images
        cfg.data.manifest = None
    if cfg.data.size is None:
        cfg.data.size = DEFAULT_SIDE
    data = instantiate(cfg.data)
    pairs = chosen_pairs(data, cfg.images)
    sheet = preview(pairs, data.size, data.augment, cfg.seed, cfg.draws, cfg.title)
    write_image(path, sheet)
    log.info("%d images, each with %d samples of %s: %s", len(pairs), cfg.draws, cfg.title, path)


@research_command("preview")
def main(cfg: DictConfig) -> None:
    write_preview(cfg, Path(cfg.out) if cfg.out else output_dir() / "preview.png")


if __name__ == "__main__":
    main()
