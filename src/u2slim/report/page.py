"""The evaluation report: one HTML page that holds its charts, pictures and script, and opens without a network."""

import base64
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from u2slim.evaluation.classes import ClassResult
from u2slim.evaluation.results import LOWER_IS_BETTER, ModelFacts, Picture, Result, columns
from u2slim.report.charts import charts
from u2slim.report.html import COLOURS, write_html

LONG_SIDE = 240
MISSED, FALSE = (70, 160, 255), (255, 130, 0)
DASH = "\N{EN DASH}"


def write_page(
    path: Path,
    title: str,
    models: dict[str, ModelFacts],
    results: list[Result],
    pictures: list[Picture],
    notes: Sequence[str] = (),
) -> None:
    """Write the report to `path`, whole or not at all.

    Args:
        models: what each model costs; its order is the order of colours and of columns beside a photo.
        results: the rows of the table; data sets stand in the order of their first result.
        notes: plain sentences shown below the title.

    Raises:
        UserError: the folder cannot be written.
    """
    colours = model_colours(models, results, pictures)
    values = page_values(title, notes, models, colours) | dict(
        scores={name: name for name in columns(results)},
        lower_is_better=LOWER_IS_BETTER,
        stretches={result.stretch for result in results},
        sections=[
            _section(index, data, colours, results, pictures)
            for index, data in enumerate(unique(part.data for part in (*results, *pictures)))
        ],
        missed=MISSED,
        surplus=FALSE,
    )
    write_html(path, "evaluation.html.j2", values, FILTERS)


def model_colours(
    models: Mapping[str, ModelFacts], results: Iterable[Result | ClassResult], pictures: Iterable[Picture]
) -> dict[str, str]:
    """The colour of each model; those beyond the last colour share them."""
    names = unique([*models, *(result.model for result in results), *(name for p in pictures for name in p.masks)])
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def page_values(
    title: str, notes: Sequence[str], models: Mapping[str, ModelFacts], colours: Mapping[str, str]
) -> dict[str, Any]:
    """What the template shows whatever was scored."""
    facts = {name: models.get(name, ModelFacts()) for name in colours}
    return {"title": title, "notes": notes, "colours": colours, "facts": facts}


def as_score(number: float) -> str:
    """Three decimals without a leading zero, or a dash for NaN."""
    return re.sub(r"^(-?)0\.", r"\1.", fixed(number, 3))


def fixed(number: float | None, decimals: int) -> str:
    """A fixed number of decimals, or a dash for None and NaN."""
    return DASH if value(number) == "" else f"{number:.{decimals}f}"


def value(number: float | None) -> str:
    """The number in full for sorting, or an empty string for None and NaN."""
    return "" if number is None or math.isnan(number) else f"{number!s}"


def error_map(photo_HW3: np.ndarray, truth_HW: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Where and by how much a mask is wrong, over the dimmed gray photo; all uint8, the result (H, W, 3).

    `MISSED` colours truth that the mask lacks, `FALSE` what the mask has beyond the truth.
    """
    gray_HW1 = photo_HW3.mean(2, keepdims=True) * 0.4
    error_HW1 = (truth_HW.astype(np.float32) - mask_HW)[..., None] / 255
    colour_HW3 = np.where(error_HW1 > 0, np.float32(MISSED), np.float32(FALSE))
    weight_HW1 = np.abs(error_HW1)
    return np.rint(gray_HW1 * (1 - weight_HW1) + colour_HW3 * weight_HW1).astype(np.uint8)


FILTERS = {"score": as_score, "fixed": fixed, "value": value}


def unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _section(index: int, data: str, colours: dict[str, str], results: list[Result], pictures: list[Picture]) -> dict:
    """Everything that the template shows of one data set."""
    rows = [result for result in results if result.data == data]
    best = {}  # rows with and without min-max do not compete
    for stretch in (True, False):
        numbers = [row.numbers for row in rows if row.stretch == stretch]
        best |= {(name, stretch): shown for name, shown in best_shown(numbers, columns(rows)).items()}
    cards = [card(picture, list(colours), MASKS) for picture in pictures if picture.data == data]
    return {
        "id": f"data-{index}",
        "data": data,
        "results": rows,
        "best": best,
        "images": sorted({row.images + len(row.left_out) + row.negatives for row in rows}),
        "left_out": {(row.model, *row.left_out.items()): row for row in rows if row.left_out}.values(),
        "charts": charts(rows, colours, f"data-{index}"),
        **card_values(cards, colours),
    }


def card_values(cards: list[dict], colours: Iterable[str]) -> dict[str, list]:
    """The cards of a section in their order, and the models that they show."""
    return {
        "models": [name for name in colours if any(name in card["cells"] for card in cards)],
        "cards": sorted(cards, key=lambda card: math.inf if math.isnan(card["mean"]) else card["mean"]),
    }


def best_shown(rivals: Sequence[Mapping[str, float]], names: Iterable[str]) -> dict[str, str]:
    """Each number's best value as it is shown, so that equal rows are marked alike; none for a lone row."""
    best = {}
    for name in names if len(rivals) > 1 else ():
        values = [row[name] for row in rivals if not math.isnan(row.get(name, math.nan))]
        if values:
            best[name] = as_score(min(values) if name in LOWER_IS_BETTER else max(values))
    return best


@dataclass(frozen=True)
class Painting:
    """How masks, or maps of classes, become pictures of at most `long_side` pixels.

    Args:
        errors: of photo, truth and mask, what is wrong where.
        shown: of photo and mask, or truth, that itself.
    """

    long_side: int
    resample: Image.Resampling
    errors: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    shown: Callable[[np.ndarray, np.ndarray], np.ndarray]


MASKS = Painting(LONG_SIDE, Image.Resampling.BICUBIC, error_map, lambda photo, mask: mask)


def card(picture: Picture, names: list[str], painting: Painting) -> dict:
    """One picture's images as data URIs, and its numbers."""
    height, width = picture.truth.shape
    scale = min(painting.long_side / max(height, width), 1)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    photo = np.asarray(Image.fromarray(picture.photo).resize(size))
    truth = np.asarray(Image.fromarray(picture.truth).resize(size, painting.resample))
    cells = {}
    for name in names:
        if name in picture.masks:
            mask = np.asarray(Image.fromarray(picture.masks[name]).resize(size, painting.resample))
            errors = painting.errors(photo, truth, mask)
            cells[name] = {"errors": _uri(errors), "mask": _uri(painting.shown(photo, mask))}
    ious = {name: picture.ious.get(name, math.nan) for name in names}
    known = [iou for iou in ious.values() if not math.isnan(iou)]
    return {
        "name": picture.name,
        "kind": picture.kind,
        "size": size,
        "photo": _uri(photo),
        "truth": _uri(painting.shown(photo, truth)),
        "cells": cells,
        "ious": ious,
        "mean": sum(known) / len(known) if known else math.nan,
    }


def _uri(pixels: np.ndarray) -> str:
    """JPEG of (H, W, 3), PNG of (H, W), as a data URI."""
    kind, options = ("jpeg", {"quality": 80}) if pixels.ndim == 3 else ("png", {"optimize": True})
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return data_uri(kind, file.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    """An image file as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
