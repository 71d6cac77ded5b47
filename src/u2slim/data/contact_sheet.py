"""One picture of what the doctor found: for each kind of finding a row of examples."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from u2slim.data.class_masks import ClassMask
from u2slim.data.labels import Labels
from u2slim.data.pairs import Problem
from u2slim.errors import BadLabels, UserError
from u2slim.files import write_whole
from u2slim.images.colours import coloured
from u2slim.images.read import Source, read_gray, read_image

TILE = 200  # pixels
MAGENTA = (255, 0, 255)


def write_sheet(path: Path, findings: Sequence[Problem], examples: int) -> None:
    """Draw the first `examples` of each kind: image and mask of a pair as it is stored, or the images of two pairs."""
    by_kind = sorted(findings, key=lambda finding: finding.kind)  # stable
    kinds = {kind: list(group) for kind, group in groupby(by_kind, key=lambda finding: finding.kind)}
    columns = min(examples, max(map(len, kinds.values())))
    figure = Figure(figsize=(0.4 + 2.9 * columns, 1.9 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), columns, squeeze=False)
    for axes, (kind, found) in zip(grid, kinds.items(), strict=True):
        for axis in axes:
            axis.axis("off")
        axes[0].set_title(f"{kind} ({len(found):,})", loc="left", fontsize=9, fontweight="bold")
        for axis, finding in zip(axes, found[:examples], strict=False):
            axis.imshow(_tile(finding))
            names = "\n".join(f"{pair.set}/{pair.name}" for pair in finding.pairs)
            axis.text(0, 1.02 * TILE, names, fontsize=6, va="top", wrap=True, parse_math=False)
    write_whole(path, lambda partial: figure.savefig(partial, format="png", dpi=100))


def _tile(finding: Problem) -> np.ndarray:
    first = finding.pairs[0]
    sources = [pair.image for pair in finding.pairs] if len(finding.pairs) > 1 else [first.image, first.mask]
    of_mask = partial(_classes, first.data_set.labels) if first.data_set.labels else _mask
    readers = [read_image, of_mask if len(finding.pairs) == 1 else read_image]
    return np.hstack([_thumbnail(read, source) for read, source in zip(readers, sources, strict=True)])


def _mask(source: Source) -> np.ndarray:
    """The mask in RGB, with all that is neither 0 nor its largest value in magenta."""
    mask = read_gray(source)
    return np.where(((mask > 0) & (mask < mask.max()))[..., None], MAGENTA, mask[..., None]).astype(np.uint8)


def _classes(labels: Labels, source: Source) -> np.ndarray:
    """The classes in their colours in RGB; the file as it is where it holds what is no class."""
    try:
        return coloured(labels.read(source), labels.palette)
    except BadLabels:
        return read_image(source.path if isinstance(source, ClassMask) else source)


def _thumbnail(read: Callable[[Source], np.ndarray], source: Source) -> np.ndarray:
    """(TILE, TILE, 3), the whole image on gray paper; a cross where it cannot be read."""
    tile = np.full((TILE, TILE, 3), 200, np.uint8)
    try:
        pixels = read(source)
    except UserError:
        cv2.line(tile, (0, 0), (TILE, TILE), (200, 0, 0), 3)
        return cv2.line(tile, (TILE, 0), (0, TILE), (200, 0, 0), 3)
    scale = TILE / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    tile[:height, :width] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return tile
