"""Cut subjects out: python predict.py input=FILE|DIR [checkpoint=CKPT_OR_ONNX] (all settings: --help)."""

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from u2slim.cli import check_whole_number, output_dir, plain, research_command
from u2slim.cutout.batch import KINDS, Cutter, default_workers, predict
from u2slim.data.photos import find_photos
from u2slim.errors import UserError
from u2slim.runtime import open_segmenter
from u2slim.zoo.checkpoints import DEFAULT

log = logging.getLogger(__name__)


@research_command("predict")
def main(cfg: DictConfig) -> None:
    if cfg.input is None:
        raise UserError("Say what to cut out: input=photo.jpg or input=FOLDER.")
    if cfg.checkpoint is None and cfg.init is None:
        cfg.checkpoint = DEFAULT
        log.info("with the shipped net %s; checkpoint= or model= and init= choose another", DEFAULT)
    output = Path(cfg.output) if cfg.output else output_dir()
    source = Path(cfg.input).expanduser()
    photos = find_photos(source, but=[output / kind for kind in KINDS])
    workers = default_workers(len(photos))
    if cfg.workers is not None:
        check_whole_number(cfg, "workers", 1)
        workers = min(cfg.workers, len(photos))
    segmenter = open_segmenter(
        cfg.checkpoint, plain(cfg.model), instantiate(cfg.init), cfg.size, cfg.runtime, cfg.stretch, workers
    )
    if segmenter.labels and (cfg.refine or cfg.foreground):
        raise UserError("refine= and foreground= are for masks; this net tells classes apart: leave them out.")
    cutter = Cutter(segmenter, output, cfg.cutout, instantiate(cfg.refine), instantiate(cfg.foreground))
    outcome = predict(cutter, source, photos, workers, cfg.redo)
    for reason in outcome.failed.values():
        log.error("%s", reason)
    before = f" ({outcome.before} skipped, already done; redo=true makes them again)" if outcome.before else ""
    log.info("%d of %d photos done with %s: %s%s", outcome.done, len(photos), segmenter.runtime, output, before)
    if outcome.failed:
        raise UserError(f"{len(outcome.failed)} photos could not be cut out; they are listed above.")


if __name__ == "__main__":
    main()
