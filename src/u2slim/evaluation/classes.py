"""What nets that tell classes apart reach on a set, as tables and pictures: over all its pixels together."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from u2slim.data.labels import Labels
from u2slim.evaluation.class_counts import ClassCounts
from u2slim.evaluation.class_scores import MEANS, class_scores
from u2slim.evaluation.confusion import class_ious, draw_confusion, scores
from u2slim.evaluation.results import COSTS, ModelFacts
from u2slim.evaluation.score_sets import Scored
from u2slim.evaluation.store import Store
from u2slim.files import write_whole
from u2slim.terminal import rows_as_markdown


@dataclass(frozen=True)
class ClassResult:
    """One model on one set.

    Args:
        counts: of all images together.
        image_scores: `mIoU` and `accuracy` of each image by itself, over the classes that occur there.
        left_out: image name -> why it is not in the counts.
    """

    model: str
    data: str
    labels: Labels
    counts: ClassCounts
    image_scores: dict[str, dict[str, float]]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images the counts are of."""
        return len(self.image_scores)

    @cached_property
    def numbers(self) -> dict[str, float]:
        return class_scores(self.counts, self.labels)

    @property
    def ious(self) -> np.ndarray:
        """Of each class; NaN where it is neither there nor predicted."""
        return class_ious(self.counts.confusion_CC)


def summarise_classes(name: str, scored: Scored, store: Store) -> ClassResult:
    """A model's counts over a set, and each image's own scores."""
    labels, left_out, own = scored.data_set.labels, dict(scored.left_out), {}
    total = None
    for image, counts in scored.counted(store):
        total = counts if total is None else total + counts
        if not counts.confusion_CC.any():
            left_out[image] = "no pixel of its truth has a class"
            continue
        found = scores(counts.confusion_CC, labels.names)
        own[image] = {mean: found[mean] for mean in ("mIoU", "accuracy")}
    return ClassResult(name, scored.data_set.title, labels, total, own, dict(sorted(left_out.items())))


def mean_columns(results: Sequence[ClassResult]) -> list[str]:
    """Those of `MEANS` that any of the results has."""
    return [mean for mean in MEANS if any(mean in result.numbers for result in results)]


def tables(models: Mapping[str, ModelFacts], results: Sequence[ClassResult]) -> Iterator[list[list[str]]]:
    """Each with its head first: one of all results, and one of each set's classes."""
    shown = mean_columns(results)
    rows = [["data", "model", "images", *(MEANS[mean] for mean in shown), *COSTS.values()]]
    for result in results:
        facts = asdict(models[result.model])
        facts["params"] = facts["params"] and facts["params"] / 1e6
        costs = [facts[cost] for cost in COSTS]
        found, given = result.numbers, result.images + len(result.left_out)
        images = str(given) if given == result.images else f"{result.images}/{given}"
        head = [result.data, result.model, images, *(_score(found.get(mean)) for mean in shown)]
        rows.append([*head, *("-" if c is None else c if isinstance(c, str) else f"{c:.2f}" for c in costs)])
    yield rows
    for data in dict.fromkeys(result.data for result in results):
        group = [result for result in results if result.data == data]
        rows = [[f"IoU on {data}", *(result.model for result in group)]]
        for index, name in enumerate(group[0].labels.names):
            rows.append([name, *(_score(result.ious[index]) for result in group)])
        yield rows


def _score(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"


def confusion_name(result: ClassResult) -> str:
    """The file of a result's confusion matrix."""
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in f"{result.data}_{result.model}")
    return f"confusion_{name}.png"


def write_results(folder: Path, models: Mapping[str, ModelFacts], results: Sequence[ClassResult]) -> None:
    """`metrics.json`, `table.md`, `images.csv`, and `confusion_SET_MODEL.png` of each."""
    content = {
        "models": {name: asdict(facts) for name, facts in models.items()},
        "results": [
            {"model": r.model, "data": r.data, "images": r.images, "left_out": r.left_out, **r.numbers}
            | {"confusion": r.counts.confusion_CC.tolist()}
            for r in results
        ],
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_whole(folder / "metrics.json", lambda partial: partial.write_text(text))
    markdown = "\n".join(rows_as_markdown(rows) for rows in tables(models, results))
    write_whole(folder / "table.md", lambda partial: partial.write_text(markdown))
    write_whole(folder / "images.csv", lambda partial: _write_images(partial, results))
    for result in results:
        title = f"{result.model} on {result.data}: % of each true class"
        draw_confusion(folder / confusion_name(result), result.counts.confusion_CC, result.labels.names, title)


def _write_images(path: Path, results: Sequence[ClassResult]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["data", "image", "model", "mIoU", "accuracy", "note"])
        for result in results:
            for image, found in result.image_scores.items():
                writer.writerow([result.data, image, result.model, found["mIoU"], found["accuracy"], ""])
            for image, reason in result.left_out.items():
                writer.writerow([result.data, image, result.model, "", "", reason])
