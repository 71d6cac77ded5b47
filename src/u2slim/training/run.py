"""One training run: from a composed config to checkpoints, logs and scores in its folder."""

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from u2slim.cli import plain, warn_idle, write_json
from u2slim.data.datamodule import PairsDataModule
from u2slim.data.semantic_datamodule import SemanticDataModule
from u2slim.errors import UserError, missing_extra
from u2slim.files import write_whole
from u2slim.models import build_net
from u2slim.models.batch_norm import one_value_named
from u2slim.training.checkpoint_io import WholeCheckpointIO
from u2slim.training.distributed import all_speak, join_run, lost_process_named
from u2slim.training.loggers import forget_run
from u2slim.training.lr_find import find_learning_rate
from u2slim.training.provenance import provenance
from u2slim.training.resume import checkpoint_for, finished_before
from u2slim.training.schedules import Factor, schedule
from u2slim.training.signals import Interrupted
from u2slim.training.speed import choose_precision, device_of, keep_memory
from u2slim.zoo import open_net

log = logging.getLogger(__name__)


def train(cfg: DictConfig, folder: Path) -> float | None:
    """Train what conf/train.yaml composes, or continue with it, in the run's folder.

    Returns:
        `optimized_metric`, or the learning rate that `find_lr` found; None if the run was stopped before its end.

    Raises:
        UserError: a setting is wrong, data are missing, or the run cannot continue.
    """
    check_choices(cfg)
    settle_classes(cfg)
    settle_model(cfg)
    settle_size(cfg)
    # Wrong settings of the net and the schedule are said before data are looked at.
    with torch.device("meta"):
        build_net(plain(cfg.model))
    if cfg.scheduler and cfg.scheduler.get("_target_") == f"{schedule.__module__}.{schedule.__qualname__}":
        Factor(**{name: value for name, value in cfg.scheduler.items() if not name.startswith("_")})
    if cfg.data.cache is None:
        warn_idle("data.cache names no cache", "data.cache_gb")
    writes = join_run(cfg.trainer.num_nodes)
    if scores := finished_before(cfg, folder):
        return scores.get(cfg.optimized_metric)
    checkpoint = checkpoint_for(cfg, folder)
    if writes:
        write_whole(folder / "config.yaml", lambda partial: OmegaConf.save(cfg, partial, resolve=True))
        (folder / "metrics.json").unlink(missing_ok=True)  # it says of a config that its run has ended
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if checkpoint is None:
        forget_run(folder)
        if begins_from := cfg.init.get("path") or cfg.init.get("weights"):
            open_net(begins_from)  # likewise
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    task = build_task(cfg, data, filled=checkpoint is not None)
    trainer = build_trainer(cfg, task)
    _describe(cfg, task, data, trainer)
    with one_value_named("give each process two images with data.batch_size, or all a larger data.size"):
        if cfg.find_lr:
            return find_learning_rate(trainer, task, data, folder)
        all_speak()
        before: dict[str, float] = {}
        if cfg.validate_first and checkpoint is None:
            # Counts that are begun in inference mode could not be added to by the validations of training.
            trainer.validate_loop.inference_mode = False
            trainer.validate(task, data, verbose=False)
            before = {name: float(value) for name, value in trainer.callback_metrics.items()}
            if trainer.is_global_zero:
                log.info("before training: %s", scores_of(before))
        metrics = fit(trainer, task, data, checkpoint)
    if metrics is None:
        return None
    if trainer.is_global_zero:
        reached = {"step": trainer.global_step, "max_steps": trainer.max_steps}
        write_json(folder / "metrics.json", reached | metrics)
        sets = ", ".join(dict.fromkeys(pair.data_set.title for pair in data.val_pairs))
        seen = f"{len(data.val_pairs)} images of {sets}"
        log.info("trained %s to step %d: %s (%s)", task.net.name, trainer.global_step, scores_of(metrics), seen)
        for callback in trainer.callbacks:
            if isinstance(callback, pl.callbacks.ModelCheckpoint) and callback.monitor and callback.best_model_path:
                say_best(callback, before)
        log.info("checkpoints, logs and pictures: %s", folder)
    return metrics.get(cfg.optimized_metric)


def scores_of(metrics: Mapping[str, float]) -> str:
    """The losses and scores of a validation, but not those of single classes."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if re.fullmatch("val/[^/]+", name))


def say_best(callback: pl.callbacks.ModelCheckpoint, before: Mapping[str, float]) -> None:
    """Log the best checkpoint, and how good the net was before training, where that is known."""
    score, name = float(callback.best_model_score), str(callback.monitor)
    start = before.get(name)
    since = "" if start is None else f", before training {start:.4f}"
    log.info("best by %s (%.4f%s): %s", name, score, since, callback.best_model_path)
    if start is not None and (score <= start if callback.mode == "max" else score >= start):
        log.warning(
            "Training made the net no better: %s was %.4f before. Keep the net that you began from, or try more "
            "photos, a lower optimizer.lr, or more steps.",
            name,
            start,
        )


def settle_model(cfg: DictConfig) -> None:
    """With model=of_init the config becomes that of the net which the run begins from, but for what it says itself."""
    if cfg.model.get("_target_") is not None:
        return
    if not cfg.init.get("path"):
        raise UserError("model=of_init is the net of init=checkpoint: add init.path=FILE, or a net's name.")
    with open_dict(cfg):
        said = OmegaConf.to_container(cfg.model)  # with the task's classes, which the data may not have said yet
        assert isinstance(said, dict)
        del said["_target_"]
        cfg.model = OmegaConf.create(dict(open_net(cfg.init.path).net().config) | said)


def settle_classes(cfg: DictConfig) -> None:
    """Where the config does not say how many classes there are, the data do."""
    if "classes" in cfg.data and cfg.data.classes is None:
        cfg.data.classes = len(instantiate(cfg.data).labels.names)


def settle_size(cfg: DictConfig) -> None:
    """Where the config does not say it, images have the size that the net is published for."""
    if cfg.data.size is None:
        cfg.data.size = get_class(cfg.model._target_).preprocess.size


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
            f"task=semantic needs data with classes, which data={data} has not: use data=cityscapes, camvid, "
            "own_classes or sample_semantic, or task=saliency."
            if is_semantic
            else f"data={data} has classes, not masks of salient objects: add task=semantic, or use data=duts."
        )
    if is_semantic and cfg.task.get("distill"):
        raise UserError("distill=teacher is for nets that make masks: leave it out with task=semantic.")


def build_task(cfg: DictConfig, data: PairsDataModule, filled: bool) -> pl.LightningModule:
    """The net with all that it is trained by; a net that a checkpoint will have `filled` is left as it is built."""
    loss = instantiate(cfg.loss)
    if loss.weighing and isinstance(data, SemanticDataModule):
        loss.weigh(data.class_pixels())
    return instantiate(cfg.task)(
        model=plain(cfg.model),
        **data.for_task(),
        init=None if filled else partial(instantiate(cfg.init), photos=data.photos()),
        loss=loss,
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
    )


def build_trainer(cfg: DictConfig, task: pl.LightningModule) -> pl.Trainer:
    """Lightning's trainer with the callbacks and loggers of the config."""
    device = device_of(cfg.trainer.accelerator)
    if device == "cpu":
        keep_memory()
    log_every = cfg.trainer.log_every_n_steps
    if cfg.trainer.max_steps > 0:  # not an endless run
        log_every = min(log_every, cfg.trainer.max_steps)
    return instantiate(cfg.trainer)(
        precision=choose_precision(cfg.trainer.precision, device, task.net),
        plugins=[WholeCheckpointIO()],
        log_every_n_steps=log_every,
        # Lightning counts batches here.
        val_check_interval=cfg.trainer.val_check_interval * cfg.trainer.accumulate_grad_batches,
        # Without a class it is only what a task sets of a callback that is not chosen.
        callbacks=[instantiate(callback) for callback in cfg.callbacks.values() if callback and "_target_" in callback],
        logger=[_logger(name, logger) for name, logger in cfg.logger.items() if logger],
    )


def _logger(name: str, cfg: DictConfig) -> Logger:
    try:
        return instantiate(cfg)
    except InstantiationException as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise missing_extra(f"logger={name}", name, name) from error
        raise


def _describe(cfg: DictConfig, task: pl.LightningModule, data: PairsDataModule, trainer: pl.Trainer) -> None:
    about = provenance(task.net)
    for logger in trainer.loggers:
        logger.log_hyperparams(plain(cfg) | about | {"validation_images": data.state_dict()["validation images"]})
    size = "{name}: {parameters_M:.2f} M parameters ({MB_float32:.1f} MB)".format(**about["model_size"])
    log.info("%s, precision %s", size, trainer.precision)


def fit(
    trainer: pl.Trainer, task: pl.LightningModule, data: PairsDataModule, checkpoint: str | None
) -> dict[str, float] | None:
    """What was logged of the last steps, which are validated; None if SIGTERM ended the run.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it, in a sentence.
    """
    try:
        with lost_process_named():
            trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
            metrics = dict(trainer.callback_metrics)
            if task.validated_at != trainer.global_step:
                trainer.validate(task, data, verbose=False)
                metrics |= trainer.callback_metrics
    except Interrupted:
        step = trainer.global_step
        raise KeyboardInterrupt(f"interrupted at step {step}, which is saved; resume=auto continues from it") from None
    except SIGTERMException:
        log.info("stopped by SIGTERM at step %d, which is saved; resume=auto continues from it", trainer.global_step)
        return None
    return {name: float(value) for name, value in sorted(metrics.items())}
