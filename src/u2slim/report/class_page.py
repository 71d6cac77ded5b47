"""The same page of nets that tell classes apart: what each class reaches, and which is taken for which."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from u2slim.data.labels import IGNORE
from u2slim.evaluation.class_scores import MEANS
from u2slim.evaluation.classes import ClassResult, mean_columns
from u2slim.evaluation.confusion import confusion_png
from u2slim.evaluation.results import ModelFacts, Picture
from u2slim.images.colours import overlay
from u2slim.report.html import write_html
from u2slim.report.page import (
    FALSE,
    FILTERS,
    Painting,
    best_shown,
    card,
    card_values,
    data_uri,
    model_colours,
    page_values,
    unique,
)

LONG_SIDE = 360  # twice as wide as high, scenes of streets are small otherwise


def write_class_page(
    path: Path,
    title: str,
    models: dict[str, ModelFacts],
    results: list[ClassResult],
    pictures: list[Picture],
    notes: Sequence[str] = (),
) -> None:
    """Write the report to `path`, whole or not at all; arguments and errors as `write_page`."""
    colours = model_colours(models, results, pictures)
    shown = {mean: MEANS[mean] for mean in mean_columns(results)}
    values = page_values(title, notes, models, colours) | dict(
        scores=shown,
        lower_is_better=(),
        stretches=(),
        sections=[
            _section(index, data, list(colours), [result for result in results if result.data == data], pictures)
            for index, data in enumerate(unique(result.data for result in results))
        ],
        wrong=FALSE,
    )
    write_html(path, "classes.html.j2", values, FILTERS)


def class_errors(photo_HW3: np.ndarray, truth_HW: np.ndarray, classes_HW: np.ndarray) -> np.ndarray:
    """`FALSE` where the class is another than in the truth, over the dimmed gray photo (H, W, 3) uint8."""
    gray_HW1 = np.rint(photo_HW3.mean(2, keepdims=True) * 0.4)
    is_wrong_HW1 = ((truth_HW != classes_HW) & (truth_HW != IGNORE))[..., None]
    return np.where(is_wrong_HW1, FALSE, gray_HW1).astype(np.uint8)


def _section(index: int, data: str, names: list[str], rows: list[ClassResult], pictures: list[Picture]) -> dict:
    """Everything that the template shows of one data set."""
    labels = rows[0].labels
    painting = Painting(LONG_SIDE, Image.Resampling.NEAREST, class_errors, partial(overlay, palette=labels.palette))
    cards = [card(picture, names, painting) for picture in pictures if picture.data == data]
    return {
        "id": f"data-{index}",
        "data": data,
        "results": rows,
        "best": best_shown([row.numbers for row in rows], MEANS),
        "images": sorted({row.images + len(row.left_out) for row in rows}),
        "left_out": [row for row in rows if row.left_out],
        "classes": _classes(rows),
        "confusions": {
            row.model: data_uri("png", confusion_png(row.counts.confusion_CC, labels.names, "% of each true class"))
            for row in rows
        },
        **card_values(cards, names),
    }


def _classes(rows: list[ClassResult]) -> list[dict]:
    labels, pixels = rows[0].labels, rows[0].counts.confusion_CC.sum(1)
    ious = {row.model: row.ious for row in rows}
    return [
        {
            "name": name,
            "colour": tuple(labels.palette[number]),
            "share": float(pixels[number] / max(1, pixels.sum())),
            "ious": {model: float(found[number]) for model, found in ious.items()},
            "best": best_shown([{name: float(found[number])} for found in ious.values()], [name]).get(name),
        }
        for number, name in enumerate(labels.names)
    ]
