"""Score models: python eval.py models=[a.ckpt,b.onnx,u2netp] data=[ecssd,duts_te] data.root=DIR (more: --help)."""

import logging
from collections.abc import Mapping, Sequence

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from u2slim.cli import door, output_dir
from u2slim.data.pairs import Pair
from u2slim.data.semantic_datamodule import SemanticDataModule
from u2slim.errors import UserError
from u2slim.evaluation.classes import score_classes, tables, write_results
from u2slim.evaluation.entries import Model, with_latencies
from u2slim.evaluation.pictures import worst_and_median
from u2slim.evaluation.score_sets import score_all, summarise
from u2slim.evaluation.settings import checked, configured_models, fresh
from u2slim.evaluation.store import Store
from u2slim.evaluation.tables import as_terminal, write_images, write_tables
from u2slim.report.page import write_page
from u2slim.terminal import print_rows, print_whole

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
@door
def main(cfg: DictConfig) -> float:
    stretches = checked(cfg)
    data = instantiate(cfg.data)
    sets = data.test_pairs()
    models = configured_models(cfg)
    if isinstance(data, SemanticDataModule):
        return score_semantic(cfg, models, sets)
    if telling := [name for name, model in models.items() if model.segmenter and model.segmenter.labels]:
        raise UserError(f"{telling[0]} tells classes apart; score it on data with classes: data=camvid or cityscapes.")
    models = with_latencies(models, cfg.latency)
    store = Store(cfg.store or fresh(output_dir() / "scores.sqlite"))
    scored = score_all(models, sets, store, stretches, cfg.workers)
    results = [
        summarise(name, data, scored[name, data], store, stretch)
        for data in sets
        for name in models
        for stretch in stretches
    ]

    folder, facts = output_dir(), {name: model.facts for name, model in models.items()}
    table = as_terminal(facts, results)
    # Too wide a line can be scrolled or piped into a file; a squeezed table cannot be read.
    print_whole(table)
    for result in results:
        if result.left_out and result.stretch == stretches[0]:
            some = "; ".join(f"{image}: {reason}" for image, reason in list(result.left_out.items())[:3])
            log.warning("%s on %s: %d images left out: %s", result.model, result.data, len(result.left_out), some)
    write_tables(folder, facts, results)
    write_images(folder / "images.csv", scored, store, stretches)
    if cfg.report:
        pictures = worst_and_median(models, sets, scored, store, cfg.pictures, stretches[0])
        write_page(folder / "report.html", "Evaluation", facts, results, pictures)
        log.info("wrote %s", folder / "report.html")
    log.info("wrote metrics.json, table.md, table.tex, table.csv and images.csv to %s", folder)
    return results[0].scores["maxF"]


def score_semantic(cfg: DictConfig, models: Mapping[str, Model], sets: Mapping[str, Sequence[Pair]]) -> float:
    results = score_classes(models, sets)
    facts = {name: model.facts for name, model in with_latencies(models, cfg.latency).items()}
    for rows in tables(facts, results):
        print_rows(rows)
    write_results(output_dir(), facts, results)
    log.info("wrote metrics.json, table.md and pictures of the confusion matrices to %s", output_dir())
    return results[0].scores["mIoU"]


if __name__ == "__main__":
    main()
