"""Score models: python eval.py models=[a.ckpt,b.onnx,u2netp] data=[ecssd,duts_te] data.root=DIR (more: --help)."""

import logging

from omegaconf import DictConfig

from u2slim.cli import output_dir, research_command
from u2slim.evaluation.run import evaluate
from u2slim.evaluation.submit import submit
from u2slim.report.class_page import write_class_page
from u2slim.report.page import write_page

log = logging.getLogger(__name__)


@research_command("eval")
def main(cfg: DictConfig) -> float | None:
    if cfg.submit is not None:
        submit(cfg)
        return None
    folder = output_dir()
    found = evaluate(cfg, folder)
    if found.pictures is not None:
        write = write_class_page if found.of_classes else write_page
        write(folder / "report.html", "Evaluation", found.models, found.results, found.pictures)
        log.info("wrote %s", folder / "report.html")
    log.info("wrote %s to %s", found.files, folder)
    return found.score


if __name__ == "__main__":
    main()
