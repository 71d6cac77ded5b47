"""Scores of nets that tell classes apart: over all pixels of a set together, at the labels' own size."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.markup import escape
from rich.progress import track
from torchmetrics.classification import MulticlassConfusionMatrix

from u2slim.data.data_set import DataSet
from u2slim.data.dataset import load_pair
from u2slim.data.labels import IGNORE
from u2slim.data.pairs import Pair
from u2slim.errors import UserError
from u2slim.evaluation.confusion import class_ious, draw_confusion, scores
from u2slim.evaluation.entries import Model
from u2slim.evaluation.results import COSTS, ModelFacts
from u2slim.files import write_whole
from u2slim.terminal import rows_as_markdown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassResult:
    """One model on one set: the confusion matrix (true, predicted) of all its pixels that have a class."""

    model: str
    data: str
    names: Sequence[str]
    confusion: np.ndarray
    images: int
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        return scores(self.confusion, self.names)


def score_classes(models: Mapping[str, Model], sets: Mapping[str, Sequence[Pair]]) -> list[ClassResult]:
    """Every model on every set; images that cannot be used are left out and named.

    Raises:
        UserError: a model makes masks, tells other classes apart, or has no usable prediction in a whole set.
    """
    for name, model in models.items():
        for pairs in sets.values():
            _check(name, model, pairs[0].data_set)
    return [_score(name, model, pairs) for pairs in sets.values() for name, model in models.items()]


def _check(name: str, model: Model, data_set: DataSet) -> None:
    labels, title = data_set.labels, data_set.title
    own = model.runner and model.runner.labels
    if not own:
        raise UserError(f"{name} makes masks and {title} has classes; score it on data=ecssd or the like.")
    if list(own["names"]) != list(labels.names):
        raise UserError(f"{name} tells {', '.join(own['names'])} apart, but {title} has {', '.join(labels.names)}.")


def _score(name: str, model: Model, pairs: Sequence[Pair]) -> ClassResult:
    labels, title = pairs[0].data_set.labels, pairs[0].data_set.title
    matrix = MulticlassConfusionMatrix(len(labels.names), ignore_index=IGNORE, validate_args=False)
    left_out = {}
    for pair in track(pairs, escape(f"{name} on {title}")):
        try:
            image, truth = load_pair(pair)
            predicted = model.runner.class_map(image)
        except UserError as error:
            left_out[pair.name] = str(error)
            continue
        matrix.update(torch.from_numpy(predicted).long(), torch.from_numpy(truth).long())
    if len(left_out) == len(pairs):
        raise UserError(f"{name} has no usable prediction on {title}: {next(iter(left_out.values()))}")
    for image, reason in list(left_out.items())[:3]:
        log.warning("%s on %s: %d images left out: %s: %s", name, title, len(left_out), image, reason)
    confusion = matrix.compute().numpy()
    return ClassResult(name, title, labels.names, confusion, len(pairs) - len(left_out), left_out)


def tables(models: Mapping[str, ModelFacts], results: Sequence[ClassResult]) -> Iterator[list[list[str]]]:
    """Each with its head first: one of all results, and one of each set's classes."""
    rows = [["data", "model", "images", "mIoU", "accuracy", *COSTS.values()]]
    for result in results:
        facts = asdict(models[result.model]) | {"params": (models[result.model].params or 0) / 1e6}
        costs = [facts[cost] for cost in COSTS]
        found = result.scores
        head = [result.data, result.model, str(result.images), f"{found['mIoU']:.4f}", f"{found['accuracy']:.4f}"]
        rows.append([*head, *("-" if c is None else c if isinstance(c, str) else f"{c:.2f}" for c in costs)])
    yield rows
    for data in dict.fromkeys(result.data for result in results):
        group = [result for result in results if result.data == data]
        ious = [class_ious(result.confusion) for result in group]
        rows = [[f"IoU on {data}", *(result.model for result in group)]]
        for index, name in enumerate(group[0].names):
            rows.append([name, *("-" if np.isnan(iou[index]) else f"{iou[index]:.4f}" for iou in ious)])
        yield rows


def write_results(folder: Path, models: Mapping[str, ModelFacts], results: Sequence[ClassResult]) -> None:
    """`metrics.json`, `table.md`, and `confusion_SET_MODEL.png` of each."""
    content = {
        "models": {name: asdict(facts) for name, facts in models.items()},
        "results": [
            {"model": r.model, "data": r.data, "images": r.images, "left_out": r.left_out, **r.scores}
            | {"confusion": r.confusion.tolist()}
            for r in results
        ],
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_whole(folder / "metrics.json", lambda partial: partial.write_text(text))
    markdown = "\n".join(rows_as_markdown(rows) for rows in tables(models, results))
    write_whole(folder / "table.md", lambda partial: partial.write_text(markdown))
    for result in results:
        name = "".join(c if c.isalnum() or c in "-." else "_" for c in f"{result.data}_{result.model}")
        title = f"{result.model} on {result.data}: % of each true class"
        draw_confusion(folder / f"confusion_{name}.png", result.confusion, result.names, title)
