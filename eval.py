"""Score a net: python eval.py checkpoint=FILE data=ecssd data.root=DIR (all settings: --help)."""

import logging

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from src.cli import configured_segmenter, door, output_dir, write_json
from src.evaluation import evaluate

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
@door
def main(cfg: DictConfig) -> float:
    segmenter = configured_segmenter(cfg)
    pairs = instantiate(cfg.data).test_pairs()
    scores = evaluate(segmenter, pairs)
    what = str(cfg.checkpoint or f"{cfg.model.width} net, weights {cfg.init.get('weights') or 'published'}")
    sets = "+".join(sorted({pair.set for pair in pairs}))
    table = Table(title=f"{what} on {sets} ({len(pairs)} images, {segmenter.runtime}, stretch={cfg.stretch})")
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.3f}" for value in scores.values()))
    Console().print(table)
    report = {"model": what, "data": sets, "images": len(pairs), "runtime": segmenter.runtime, "stretch": cfg.stretch}
    write_json(output_dir() / "metrics.json", report | scores)
    log.info("wrote %s", output_dir() / "metrics.json")
    return scores["maxF"]


if __name__ == "__main__":
    main()
