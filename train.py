"""Train a net: python train.py model=dwsep init=pretrained data=duts data.root=DIR (all settings: --help)."""

import logging
import re
import sys
from functools import partial

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import SIGTERMException

from u2slim.cli import door, in_sweep, output_dir, plain, write_json
from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.training.distributed import all_speak, join_run, lost_process_named
from u2slim.training.loggers import forget_run
from u2slim.training.lr_find import find_learning_rate
from u2slim.training.provenance import provenance
from u2slim.training.resume import checkpoint_for, finished_before
from u2slim.training.speed import choose_precision, device_of, keep_memory
from u2slim.training.sweep import run_job, stop_with_sweep
from u2slim.zoo.checkpoints import WholeCheckpointIO

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@door
def main(cfg: DictConfig) -> float | None:
    if in_sweep():
        return run_job(cfg)
    stop_with_sweep()
    failed = True
    try:
        score = train(cfg)
        failed = False
        return score
    finally:
        if wandb := sys.modules.get("wandb"):
            wandb.finish(exit_code=int(failed))


def train(cfg: DictConfig) -> float | None:
    check_choices(cfg)
    folder = output_dir()
    writes = join_run(cfg.trainer.num_nodes)
    if scores := finished_before(cfg, folder):
        return scores.get(cfg.optimized_metric)
    resume = checkpoint_for(cfg, folder)
    if writes:
        write_whole(folder / "config.yaml", lambda partial: OmegaConf.save(cfg, partial, resolve=True))
        (folder / "metrics.json").unlink(missing_ok=True)  # it says of a config that its run has ended
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if resume is None:
        forget_run(folder)
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    task = instantiate(cfg.task)(
        model=plain(cfg.model),
        **data.for_task(),
        init=None if resume else partial(instantiate(cfg.init), photos=data.photos()),
        loss=instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
    )
    device = device_of(cfg.trainer.accelerator)
    if device == "cpu":
        keep_memory()
    log_every = cfg.trainer.log_every_n_steps
    if cfg.trainer.max_steps > 0:  # not an endless run
        log_every = min(log_every, cfg.trainer.max_steps)
    trainer = instantiate(cfg.trainer)(
        precision=choose_precision(cfg.trainer.precision, device, task.net),
        plugins=[WholeCheckpointIO()],
        log_every_n_steps=log_every,
        # Lightning counts batches here.
        val_check_interval=cfg.trainer.val_check_interval * cfg.trainer.accumulate_grad_batches,
        # Without a class it is only what a task sets of a callback that is not chosen.
        callbacks=[instantiate(callback) for callback in cfg.callbacks.values() if callback and "_target_" in callback],
        logger=[instantiate(logger) for logger in cfg.logger.values() if logger],
    )
    about = provenance(task.net)
    for logger in trainer.loggers:
        logger.log_hyperparams(plain(cfg) | about | {"validation_images": data.state_dict()["validation images"]})

    size = "{name}: {parameters_M:.2f} M parameters ({MB_float32:.1f} MB)".format(**about["model_size"])
    log.info("%s, precision %s", size, trainer.precision)
    if cfg.find_lr:
        return find_learning_rate(trainer, task, data, folder)
    all_speak()
    try:
        with lost_process_named():
            trainer.fit(task, data, ckpt_path=resume, weights_only=True)
            metrics = dict(trainer.callback_metrics)
            if task.validated_at != trainer.global_step:
                trainer.validate(task, data, verbose=False)
                metrics |= trainer.callback_metrics
    except SIGTERMException:
        log.info("stopped by SIGTERM at step %d, which is saved; resume=auto goes on from it", trainer.global_step)
        return None
    metrics = {name: float(value) for name, value in sorted(metrics.items())}
    if trainer.is_global_zero:
        reached = {"step": trainer.global_step, "max_steps": trainer.max_steps}
        write_json(folder / "metrics.json", reached | metrics)
        scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if re.fullmatch("val/[^/]+", name))
        log.info("trained %s to step %d: %s", task.net.name, trainer.global_step, scores)
        log.info("checkpoints, logs and pictures: %s", folder)
    return metrics.get(cfg.optimized_metric)


def check_choices(cfg: DictConfig) -> None:
    """Raise UserError where task and data do not go together."""
    if cfg.data.get("unlabelled") and not cfg.task.get("distill"):
        raise UserError(
            f"data.unlabelled={cfg.data.unlabelled}: images without masks need a teacher; add distill=teacher."
        )
    is_semantic = cfg.task._target_.endswith("SemanticTask")
    if is_semantic != ("classes" in cfg.data):
        data = HydraConfig.get().runtime.choices.data
        raise UserError(
            f"task=semantic needs data with classes, which data={data} has not: use data=cityscapes, camvid or "
            "sample_semantic, or task=saliency."
            if is_semantic
            else f"data={data} has classes, not masks of salient objects: add task=semantic, or use data=duts."
        )
    if is_semantic and cfg.task.get("distill"):
        raise UserError("distill=teacher is for nets that make masks: leave it out with task=semantic.")


if __name__ == "__main__":
    main()
