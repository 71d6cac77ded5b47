"""Export a net to ONNX and prove it: python export.py checkpoint=FILE (all settings: --help)."""

import logging
from pathlib import Path

import hydra
import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from src.checkpoint import load_net, origin, write_net
from src.cli import door, output_dir, plain
from src.data.sample import render
from src.export import Row, check_parity, write_onnx
from src.files import write_whole
from src.images import read_image
from src.photos import find_photos

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
@door
def main(cfg: DictConfig) -> float:
    net, size = load_net(cfg.checkpoint, plain(cfg.model), instantiate(cfg.init), cfg.size)
    settings = cfg.export
    path = Path(settings.output or output_dir() / f"{net.name}-{settings.preprocess}.onnx")
    images, rows = parity_images(settings.images, settings.count), []

    def write_and_check(partial: Path) -> None:
        write_onnx(
            net,
            size,
            partial,
            settings.preprocess,
            settings.opset,
            settings.outputs,
            settings.dynamic,
            settings.precision,
            {"weights": origin(cfg.checkpoint, cfg.init)},
        )
        tolerance, least_iou = (settings.tolerance, 0.0) if settings.precision == "fp32" else (1.0, settings.least_iou)
        rows.extend(check_parity(net, partial, images, size, tolerance, least_iou, settings.dynamic))

    path.unlink(missing_ok=True)  # a file of this name after a failure must not be an older net
    log.info("exporting %s at %dx%d", net.name, size, size)
    write_whole(path, write_and_check)
    if settings.weights:
        write_net(net, size, Path(settings.weights).expanduser())
        log.info("wrote %s", settings.weights)
    print_table(rows, f"{path.name} against torch on {len(images)} images")
    log.info("wrote %s (%.2f MB, input: %s)", path, path.stat().st_size / 1e6, settings.preprocess)
    return max(row.largest for row in rows)


def parity_images(folder: str | None, count: int) -> list[np.ndarray]:
    """The first photos of a folder, or generated ones; and a black, a white and a constant image."""
    if folder:
        photos = [read_image(photo) for photo, _ in find_photos(folder)[:count]]
    else:
        photos = [render(0, index)[0] for index in range(count)]
    return photos + [np.full((64, 64, 3), value, np.uint8) for value in (0, 255, 127)]


def print_table(rows: list[Row], title: str) -> None:
    table = Table("runtime", "largest diff", "mean diff", "mask IoU", "MB", "ms", "x torch", title=title)
    for row in rows:
        ratio = rows[0].milliseconds / row.milliseconds
        cells = (
            f"{row.largest:.1e} {row.mean:.1e} {row.iou:.4f} {row.bytes / 1e6:.2f} {row.milliseconds:.0f} {ratio:.1f}"
        )
        table.add_row(row.runtime, *cells.split())
    Console().print(table)


if __name__ == "__main__":
    main()
