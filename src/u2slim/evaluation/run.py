"""One evaluation: from a composed config to tables in its folder."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from u2slim.cli import warn_idle
from u2slim.data.pairs import Pair
from u2slim.data.semantic_datamodule import SemanticDataModule
from u2slim.errors import UserError
from u2slim.evaluation.classes import ClassResult, summarise_classes, tables, write_results
from u2slim.evaluation.entries import Model, with_latencies
from u2slim.evaluation.pictures import worst_and_median, worst_and_median_classes
from u2slim.evaluation.results import ModelFacts, Picture, Result
from u2slim.evaluation.score_classes import score_classes
from u2slim.evaluation.score_sets import score_all, summarise
from u2slim.evaluation.settings import checked, configured_models, fresh, reference, warn_of_idle
from u2slim.evaluation.store import Store
from u2slim.evaluation.tables import as_terminal, write_images, write_tables
from u2slim.terminal import print_rows, print_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What was found, and written into the folder.

    Args:
        score: of the first model on the first set: maxF, the share of images without a false alarm where none has a
            subject, or mIoU of nets that tell classes apart.
        files: the names of what was written, in words.
        models: what each model costs.
        results: of masks, or of classes.
        pictures: for a report; None where none is wanted.
    """

    score: float
    files: str
    models: dict[str, ModelFacts]
    results: list[Result] | list[ClassResult]
    pictures: list[Picture] | None = None

    @property
    def of_classes(self) -> bool:
        return isinstance(self.results[0], ClassResult)


def evaluate(cfg: DictConfig, folder: Path) -> Evaluation:
    """Score what conf/eval.yaml composes, print the table and write it into the folder.

    Raises:
        UserError: a setting is wrong, or a model or a data set is missing or cannot be used.
    """
    stretches = checked(cfg)
    warn_of_idle(cfg)
    data = instantiate(cfg.data)
    models = configured_models(cfg)  # first, as all photos of large sets take longer to look at
    sets = data.test_pairs()
    if isinstance(data, SemanticDataModule):
        if cfg.agree_with is not None:
            raise UserError(f"agree_with={cfg.agree_with}: only masks are held against each other, not classes.")
        warn_idle("classes are scored without it", "stretch", "workers", "refine")
        return _evaluate_classes(cfg, models, sets, folder)
    if telling := [name for name, model in models.items() if model.runner and model.runner.labels]:
        raise UserError(f"{telling[0]} tells classes apart; score it on data with classes: data=camvid or cityscapes.")
    return _evaluate_masks(cfg, stretches, models, sets, folder)


def _evaluate_masks(
    cfg: DictConfig,
    stretches: Sequence[bool],
    models: Mapping[str, Model],
    sets: Mapping[str, Sequence[Pair]],
    folder: Path,
) -> Evaluation:
    other = reference(cfg)
    models = with_latencies(models, cfg.latency)
    store = Store(cfg.store or fresh(folder / "scores.sqlite"))
    scored = score_all({**other, **models}, sets, store, stretches, cfg.workers)
    agree_with = {data: scored.pop((name, data)) for name in other for data in sets}
    results = [
        summarise(name, scored[name, data], store, stretch, agree_with.get(data))
        for data in sets
        for name in models
        for stretch in stretches
    ]
    facts = {name: model.facts for name, model in models.items()}
    print_whole(as_terminal(facts, results), repeated=2)
    for result in results:
        if result.stretch == stretches[0]:
            _name_left_out(result)
    write_tables(folder, facts, results)
    write_images(folder / "images.csv", scored, store, stretches, agree_with)
    pictures = worst_and_median(models, sets, scored, store, cfg.pictures, stretches[0]) if cfg.report else None
    files = "metrics.json, table.md, table.tex, table.csv and images.csv"
    first = results[0]
    score = first.scores["maxF"] if first.images else 1 - first.alarms["alarms"]
    return Evaluation(score, files, facts, results, pictures)


def _evaluate_classes(
    cfg: DictConfig, models: Mapping[str, Model], sets: Mapping[str, Sequence[Pair]], folder: Path
) -> Evaluation:
    models = with_latencies(models, cfg.latency)
    store = Store(cfg.store or fresh(folder / "scores.sqlite"))
    scored = score_classes(models, sets, store)
    results = [summarise_classes(name, scored[name, data], store) for data in sets for name in models]
    facts = {name: model.facts for name, model in models.items()}
    for rows in tables(facts, results):
        print_rows(rows)
    for result in results:
        _name_left_out(result)
    write_results(folder, facts, results)
    pictures = worst_and_median_classes(models, sets, results, cfg.pictures) if cfg.report else None
    titles = ", ".join(dict.fromkeys(result.data for result in results))
    files = f"metrics.json, table.md, images.csv and pictures of the confusion matrices on {titles}"
    return Evaluation(results[0].numbers["mIoU"], files, facts, results, pictures)


def _name_left_out(result: Result | ClassResult) -> None:
    if result.left_out:
        some = "; ".join(f"{image}: {reason}" for image, reason in list(result.left_out.items())[:3])
        log.warning("%s on %s: %d images left out: %s", result.model, result.data, len(result.left_out), some)
