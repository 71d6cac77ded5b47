"""Train a net: python train.py model=dwsep init=pretrained data=duts data.root=DIR (all settings: --help)."""

import logging

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src import checkpoint
from src.cli import door, output_dir, write_json

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@door
def main(cfg: DictConfig) -> float | None:
    folder = output_dir()
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)

    resume = resume_from(cfg)
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    task = instantiate(cfg.task)(
        model=OmegaConf.to_container(cfg.model, resolve=True),
        size=cfg.data.size,
        init=None if resume else instantiate(cfg.init),
        loss=instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
    )
    trainer = instantiate(cfg.trainer)(
        callbacks=[instantiate(callback) for callback in cfg.callbacks.values() if callback],
        logger=[instantiate(logger) for logger in cfg.logger.values() if logger],
    )
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))

    parameters = sum(p.numel() for p in task.net.parameters())
    log.info("%s: %.2f M parameters (%.1f MB)", task.net.name, parameters / 1e6, parameters * 4e-6)
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    metrics = dict(trainer.callback_metrics)
    if trainer.global_step % max(1, trainer.val_check_interval // trainer.accumulate_grad_batches):
        trainer.validate(task, data, verbose=False)
        metrics |= trainer.callback_metrics
    metrics = {name: float(value) for name, value in sorted(metrics.items())}
    if trainer.is_global_zero:
        write_json(folder / "metrics.json", {"step": trainer.global_step, **metrics})
        scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.startswith("val/"))
        log.info("trained %s to step %d: %s", task.net.name, trainer.global_step, scores)
        log.info("checkpoint, logs and pictures: %s", folder)
    return metrics.get(cfg.optimized_metric)


def resume_from(cfg: DictConfig) -> str | None:
    """The checkpoint to go on from, read once to see that it is whole and of the same model."""
    if cfg.ckpt_path is None:
        return None
    own = output_dir() / "checkpoints" / "last.ckpt"
    path = own if cfg.ckpt_path == "last" and own.is_file() else checkpoint.resolve(cfg.ckpt_path)
    saved = checkpoint.read(path)["hyper_parameters"]["model"]
    asked = OmegaConf.to_container(cfg.model, resolve=True)
    if saved != asked:
        raise checkpoint.UserError(f"{path} was trained with model {saved}, not {asked}; use the same model config.")
    log.info("resuming from %s", path)
    return str(path)


if __name__ == "__main__":
    main()
