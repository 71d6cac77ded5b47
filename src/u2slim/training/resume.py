"""Where a run continues: from a file that the user names, from `last`, or by `resume=auto` from a run of its config."""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from u2slim.cli import folder_is_given, plain
from u2slim.errors import UserError
from u2slim.legacy import current_run
from u2slim.models import current_config
from u2slim.training.loggers import RUN_ID
from u2slim.zoo import checkpoints

log = logging.getLogger(__name__)

# What may change between the parts of one run: places on a machine, loggers, and how it was started.
_VOLATILE = re.compile(
    r"^(logger(\.|$)|(resume|ckpt_path|optimized_metric|data\.(root|unlabelled|cache|cache_gb|manifest|num_workers))$)"
    r"|^(?!init\.).*(dir|path|folder)$"
)
_MAX_STEPS = "trainer.max_steps"
# Settings of today, and what runs did before they were there.
_ADDED = {"data.repeats_apart": True, "data.val_share": 0.1, "task.freeze": [], "validate_first": False}
# How the first process of a run tells the others, which it starts with its own environment.
_CHECKPOINT_VARIABLE = "U2SLIM_CHECKPOINT"


def checkpoint_for(cfg: DictConfig, folder: Path) -> str | None:
    """The checkpoint to continue from, read once to see that it is whole and of the same model and schedule.

    Raises:
        UserError: there is none where one is asked for, or it is not of this model or schedule.
    """
    if (decided := os.environ.get(_CHECKPOINT_VARIABLE)) is not None:
        return decided or None
    found = _find(cfg, folder)
    if found:
        path, saved = found
        _check(cfg, path, saved)
        log.info("resuming from %s", path)
        if cfg.resume or cfg.ckpt_path == "last":
            _take_over_identity(path.parents[1], folder)
    os.environ[_CHECKPOINT_VARIABLE] = str(found[0]) if found else ""
    return str(found[0]) if found else None


def _take_over_identity(run: Path, folder: Path) -> None:
    # By this file W&B knows the run that it is to go on drawing.
    if (run / RUN_ID).is_file() and run.resolve() != folder.resolve():
        shutil.copy(run / RUN_ID, folder)


def _find(cfg: DictConfig, folder: Path) -> tuple[Path, dict] | None:
    if cfg.resume:
        return _newest_of_its_config(cfg, folder)
    if cfg.ckpt_path is None:
        return None
    if cfg.ckpt_path == "last" and (own := _checkpoints(folder)):
        return newest_whole(own)
    path = checkpoints.checkpoint_path(cfg.ckpt_path)
    return path, checkpoints.read(path)


def _check(cfg: DictConfig, path: Path, saved: dict) -> None:
    model = current_config(saved["hyper_parameters"]["model"])
    if _without_defaults(model) != _without_defaults(plain(cfg.model)):
        raise UserError(f"{path} was trained with model {model}, not {plain(cfg.model)}; use the same model config.")
    if "optimizer_states" not in saved:
        raise UserError(
            f"{path} holds a net without its training state; start a new run with init=checkpoint init.path={path}."
        )
    group = saved["optimizer_states"][0]["param_groups"][0]
    lr = group.get("max_lr", group.get("initial_lr", group["lr"]))  # one cycle, another schedule, none
    lr /= group.get("rate", 1)
    if not math.isclose(lr, cfg.optimizer.lr):
        raise UserError(f"{path} was trained with optimizer.lr={lr:g} and can only continue with that; give the same.")
    for schedule in saved["lr_schedulers"]:
        own = (
            next(iter(schedule.get("lr_lambdas", ())), None) or schedule
        )  # u2slim.training.schedules, or one of torch's
        steps = own.get("total_steps", cfg.trainer.max_steps)
        if steps != cfg.trainer.max_steps:
            raise UserError(f"{path} follows a schedule of {steps} steps; resume it with trainer.max_steps={steps}.")


def _without_defaults(model: dict) -> dict:
    """A model config without what is switched off: settings that older checkpoints do not know yet."""
    kept = {name: _without_defaults(value) if isinstance(value, dict) else value for name, value in model.items()}
    return {name: value for name, value in kept.items() if value is not None and value is not False}


def newest_whole(paths: list[Path]) -> tuple[Path, dict]:
    """The last of the checkpoints that can be read, and what is in it."""
    *earlier, newest = paths
    try:
        return newest, checkpoints.read(newest)
    except UserError as error:
        if not earlier:
            raise
        log.warning("%s Continuing from the one before.", error)
        return newest_whole(earlier)


def _checkpoints(run: Path) -> list[Path]:
    # Not last.ckpt, which is a link to one of them, nor what a killed process had begun to write.
    found = [path for path in (run / "checkpoints").glob("[!.]*.ckpt") if not path.is_symlink()]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def finished_before(cfg: DictConfig, folder: Path) -> dict | None:
    """With `resume=auto`, the scores of the run that this one repeats, if that has reached its last step.

    Raises:
        UserError: `resume` is wrong, or the folder holds a run of another config.
    """
    if cfg.resume is None:
        return None
    if cfg.resume != "auto":
        raise UserError(f"resume={cfg.resume} is not known; give auto, or a checkpoint as ckpt_path=FILE.")
    if cfg.ckpt_path is not None:
        raise UserError("resume=auto finds the checkpoint itself; leave out ckpt_path, or resume.")
    newest = next(_runs_of_its_config(cfg, folder), None)
    scores = finished_scores(cfg, newest) if newest else None
    if scores:
        log.info("%s is finished: trained to step %d", newest, scores["step"])
    return scores


def finished_scores(cfg: DictConfig, run: Path) -> dict | None:
    """What a run's metrics.json holds, if it ended, by its steps or by a rule, and was to have as many steps."""
    try:
        scores = json.loads((run / "metrics.json").read_text())
    except (OSError, ValueError):
        return None
    wanted = cfg.trainer.max_steps
    out_of_time = cfg.trainer.get("max_time") is not None and scores["step"] < wanted
    return None if out_of_time or scores.get("max_steps", scores["step"]) < wanted else scores


def refuse_another_config(cfg: DictConfig, folder: Path) -> None:
    """Raise UserError if a folder holds what a run of another config made; more steps are no other config."""
    if _is_used(folder) and (differing := _differences(cfg, folder) - {_MAX_STEPS}):
        raise UserError(
            f"{folder} holds a run of another config (another {', '.join(sorted(differing)[:4])}): "
            "resume with the settings it was started with, or choose another folder."
        )


def _newest_of_its_config(cfg: DictConfig, folder: Path) -> tuple[Path, dict] | None:
    for run in filter(_checkpoints, _runs_of_its_config(cfg, folder)):
        try:
            return newest_whole(_checkpoints(run))
        except UserError as error:
            log.warning("%s", error)
    log.info("resume=auto: no run to continue from; starting a new one")
    return None


def _runs_of_its_config(cfg: DictConfig, folder: Path) -> Iterator[Path]:
    """The run's own folder if it was used before, then the runs of the same config beside it, newest first."""
    refuse_another_config(cfg, folder)
    if _is_used(folder):
        yield folder
    if folder_is_given():
        return
    others = [path.parent for path in folder.parent.glob("*/config.yaml") if path.parent != folder]
    for run in sorted(others, key=_last_written, reverse=True):
        if _is_used(run) and not _differences(cfg, run):
            yield run


def _is_used(run: Path) -> bool:
    return (run / "config.yaml").is_file() and _last_written(run) > 0


def _last_written(run: Path) -> float:
    results = [*_checkpoints(run), *run.glob("metrics.json")]
    return max((path.stat().st_mtime for path in results), default=0)


def _differences(cfg: DictConfig, run: Path) -> set[str]:
    """The keys in which a run's config is another one."""
    configs = (OmegaConf.to_yaml(cfg, resolve=True), (run / "config.yaml").read_text())
    ours, theirs = (_today(yaml.safe_load(text)) for text in configs)
    return {
        key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key) and not _VOLATILE.search(key)
    }


def _today(config: dict) -> dict[str, object]:
    """The settings of a run's config of any age as they would be written today, but for what is as before `_ADDED`."""
    today = _leaves(current_run(config) | {"model": current_config(config["model"])})
    return {key: value for key, value in today.items() if key not in _ADDED or value != _ADDED[key]}


def _leaves(config: dict, prefix: str = "") -> dict[str, object]:
    leaves: dict[str, object] = {}
    for key, value in (config or {}).items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves
