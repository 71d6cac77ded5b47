"""Choose between nets by photos that no table of nets shows: one number each, the best net last.

    python -m u2slim.evaluation.selection models=[lite-half,a.onnx] root=ROOT davis=DIR

What the photos are, and why these: docs/lab/selection.md.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from u2slim.cli import check_whole_number, research_command, warn_idle, write_json
from u2slim.errors import UserError
from u2slim.evaluation.entries import open_models
from u2slim.evaluation.selection_score import Ingredient, SelectionScore, opened, selection_score
from u2slim.evaluation.selection_set import Shown, selection_set
from u2slim.runtime import Runner
from u2slim.terminal import print_rows


@research_command("selection")
def main(cfg: DictConfig) -> None:
    check(cfg)
    runners = _runners(cfg)
    if not cfg.derived:
        warn_idle("derived=0 draws nothing", "seed")
    dense = opened(cfg.dense, cfg.runtime)
    photos = selection_set(str(cfg.root), str(cfg.davis), cfg.seed, cfg.quick, cfg.photos, cfg.derived)
    print(f"{len(photos)} photos; first {cfg.dense} runs on them, unless its masks are known already", flush=True)
    scores = {}
    for name, runner in runners.items():
        progress = _progress(name, len(photos))
        further = {"photos": cfg.photos, "derived": cfg.derived, "progress": progress}
        scores[name] = selection_score(runner, cfg.root, cfg.davis, cfg.quick, cfg.seed, dense, **further)
    print_rows(rows(scores))
    if cfg.out is not None:
        write_json(Path(cfg.out), {name: asdict(score) for name, score in scores.items()})
    print(verdict({name: score.score for name, score in scores.items()}))


def check(cfg: DictConfig) -> None:
    """Raise UserError where a setting is missing or wrong."""
    if not cfg.models or cfg.root is None or cfg.davis is None:
        raise UserError("Say models=[NET,NET], root=ROOT, a folder with DUTS-TR, and davis=DIR, a folder of frames.")
    if type(cfg.quick) is not bool:
        raise UserError(f"quick={cfg.quick}: give true or false.")
    check_whole_number(cfg, "seed", 0)
    check_whole_number(cfg, "derived", 0)


def _runners(cfg: DictConfig) -> dict[str, Runner]:
    named = OmegaConf.to_object(cfg.models) if OmegaConf.is_config(cfg.models) else cfg.models
    models = open_models(named, cfg.runtime)
    for name, model in models.items():
        if model.runner is None or model.runner.labels:
            raise UserError(f"models= names {name}, which is not a net that makes masks; leave it out.")
    return {name: model.runner for name, model in models.items() if model.runner is not None}


def _progress(name: str, total: int) -> Callable[[Iterable[Shown]], Iterable[Shown]]:
    return partial(track, description=name, total=total)


def rows(scores: Mapping[str, SelectionScore]) -> list[list[str]]:
    """A table, its head first: each net on each sort of photos, and the score."""
    numbers = ("maxF", "MAE", "agree", "agree_p5", "agree_min", "agree_mean")
    table = [["net", "photos", "images", *numbers]]
    for name, found in scores.items():
        for kind, ingredient in found.ingredients.items():
            table.append([name, kind, str(ingredient.images), *_cells(ingredient, numbers)])
    return table


def _cells(ingredient: Ingredient, numbers: Iterable[str]) -> list[str]:
    values = [getattr(ingredient, number) for number in numbers]
    return ["-" if value is None else f"{value:.3f}".removeprefix("0") for value in values]


def verdict(scores: Mapping[str, float]) -> str:
    """Which net is best, and what each has, the best first."""
    order = sorted(scores, key=lambda name: -scores[name])
    return f"Best: {order[0]}. " + ", ".join(f"{name} {scores[name]:+.4f}" for name in order)


if __name__ == "__main__":
    main()
