"""Cut subjects out: python predict.py input=FILE|DIR [checkpoint=CKPT_OR_ONNX] (all settings: --help)."""

import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig

from src.checkpoint import DEFAULT
from src.cli import configured_segmenter, door, output_dir
from src.errors import UserError
from src.predict import predict

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
@door
def main(cfg: DictConfig) -> None:
    if cfg.input is None:
        raise UserError("Say what to cut out: input=photo.jpg or input=FOLDER.")
    if cfg.checkpoint is None and cfg.init is None:
        cfg.checkpoint = DEFAULT
        log.info("with the shipped net %s; checkpoint= or model= and init= choose another", DEFAULT)
    segmenter = configured_segmenter(cfg)
    output = Path(cfg.output) if cfg.output else output_dir()
    done, failed = predict(segmenter, cfg.input, output, cfg.cutout)
    for reason in failed.values():
        log.error("%s", reason)
    log.info("%d of %d photos done with %s: %s", done, done + len(failed), segmenter.runtime, output)
    if failed:
        raise UserError(f"{len(failed)} photos could not be cut out; they are listed above.")


if __name__ == "__main__":
    main()
