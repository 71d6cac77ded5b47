"""Train a net: python train.py model=dwsep init=pretrained data=duts data.root=DIR (all settings: --help)."""

import logging
import sys
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src import checkpoint
from src.cli import door, in_sweep, output_dir, plain, write_json
from src.errors import UserError

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@door
def main(cfg: DictConfig) -> float | None:
    try:
        return train(cfg)
    finally:
        if wandb := sys.modules.get("wandb"):
            wandb.finish()  # the next job of a sweep must not go on in this job's run


def train(cfg: DictConfig) -> float | None:
    folder = output_dir()
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)

    resume = resume_from(cfg)
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    task = instantiate(cfg.task)(
        model=plain(cfg.model),
        size=cfg.data.size,
        init=None if resume else instantiate(cfg.init),
        loss=instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
    )
    trainer = instantiate(cfg.trainer)(
        # Lightning counts batches here.
        val_check_interval=cfg.trainer.val_check_interval * cfg.trainer.accumulate_grad_batches,
        callbacks=[instantiate(callback) for callback in cfg.callbacks.values() if callback],
        logger=[instantiate(logger) for logger in cfg.logger.values() if logger],
    )
    if in_sweep() and trainer.world_size > 1:
        raise UserError("A sweep's jobs run on one device each (ddp would start the sweep again in every process).")
    for logger in trainer.loggers:
        logger.log_hyperparams(plain(cfg) | {"validation_images": data.state_dict()["validation images"]})

    parameters = sum(p.numel() for p in task.net.parameters())
    log.info("%s: %.2f M parameters (%.1f MB)", task.net.name, parameters / 1e6, parameters * 4e-6)
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    metrics = dict(trainer.callback_metrics)
    if task.validated_at != trainer.global_step:
        trainer.validate(task, data, verbose=False)
        metrics |= trainer.callback_metrics
    metrics = {name: float(value) for name, value in sorted(metrics.items())}
    if trainer.is_global_zero:
        write_json(folder / "metrics.json", {"step": trainer.global_step, **metrics})
        scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.startswith("val/"))
        log.info("trained %s to step %d: %s", task.net.name, trainer.global_step, scores)
        log.info("checkpoints, logs and pictures: %s", folder)
    return metrics.get(cfg.optimized_metric)


def resume_from(cfg: DictConfig) -> str | None:
    """The checkpoint to go on from, read once to see that it is whole and of the same model and schedule."""
    if cfg.ckpt_path is None:
        return None
    # A run that was killed after writing step_N.ckpt and before last.ckpt goes on from the former.
    own = sorted((output_dir() / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    if cfg.ckpt_path == "last" and (own or in_sweep()):
        if not own:
            log.info("this job has no checkpoint yet: starting it")
            return None
        path, saved = newest_whole(own)
    else:
        path = checkpoint.resolve(cfg.ckpt_path)
        saved = checkpoint.read(path)
    model = saved["hyper_parameters"]["model"]
    if model != plain(cfg.model):
        raise UserError(f"{path} was trained with model {model}, not {plain(cfg.model)}; use the same model config.")
    for schedule in saved["lr_schedulers"]:
        if schedule.get("total_steps", cfg.trainer.max_steps) != cfg.trainer.max_steps:
            steps = schedule["total_steps"]
            raise UserError(f"{path} follows a schedule of {steps} steps; resume it with trainer.max_steps={steps}.")
    log.info("resuming from %s", path)
    return str(path)


def newest_whole(paths: list[Path]) -> tuple[Path, dict]:
    """The last of the checkpoints that can be read, and what is in it."""
    *earlier, newest = paths
    try:
        return newest, checkpoint.read(newest)
    except UserError as error:
        if not earlier:
            raise
        log.warning("%s Going on from the one before.", error)
        return newest_whole(earlier)


if __name__ == "__main__":
    main()
