"""Configs of earlier versions, read as configs of today.

Checkpoints, run folders and users' own YAML files name classes by their dotted path, and the package has moved: until
version 0.2 it was called `src`. `current` is applied wherever such a config is read, so that old files stay good.
A setting whose format changes belongs here too: a function from its old value to the new one, called by `current`.
"""

from collections.abc import Mapping
from typing import Any

# Old module -> where its contents are today. Of several that fit, the longest counts.
MODULES = {
    "src.callbacks": "u2slim.callbacks",
    "src.callbacks.checkpoint": "u2slim.callbacks.step_checkpoint",
    "src.callbacks.confusion": "u2slim.callbacks.confusion_picture",
    "src.callbacks.losses": "u2slim.callbacks.loss_guards",
    "src.callbacks.pictures": "u2slim.callbacks.validation_pictures",
    "src.data.saliency": "u2slim.data.saliency_datamodule",
    "src.data.semantic": "u2slim.data.semantic_datamodule",
    "src.data.transforms": "u2slim.data.transforms",
    "src.distill": "u2slim.training.distillation",
    "src.init": "u2slim.compress.init",
    "src.loggers": "u2slim.training.loggers",
    "src.losses": "u2slim.training.losses",
    "src.models": "u2slim.models",
    "src.refine": "u2slim.images.refine",
    "src.schedules": "u2slim.training.schedules",
    "src.sweep": "u2slim.training.sweep",
    "src.tasks": "u2slim.tasks",
}


def current(config: Any) -> Any:
    """A config of plain dictionaries, lists and values as today's code reads it; what it is given stays as it is."""
    if isinstance(config, Mapping):
        return {key: current_name(value) if key == "_target_" else current(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(current(value) for value in config)
    return config


def current_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a training run, as `current`, with the settings that are called otherwise today."""
    run = current(config)
    weights = (run.get("loss") or {}).get("weights")
    if weights and all(weight == 1 for weight in weights):
        run["loss"] |= {"weights": None}  # the default, which nets of any outputs have
    callbacks = run.get("callbacks") or {}
    if "fused" in (stop := callbacks.get("stop") or {}):
        stop["answer"] = stop.pop("fused")
    if (best := callbacks.get("best") or {}).get("_target_") == "pytorch_lightning.callbacks.ModelCheckpoint":
        best["_target_"] = "u2slim.callbacks.KeepBest"  # the same, with a link to the best
    if (callbacks.get("progress") or {}).get("shown") == ["train/main", "train/images_per_s", "val/mIoU"]:
        del callbacks["progress"]["shown"]  # which is the default of a task with classes
    return run


def current_name(name: Any) -> Any:
    """The dotted name that stands for an old one today; any other value as it is."""
    if not isinstance(name, str):
        return name
    module = name
    while module := module.rpartition(".")[0]:
        if module in MODULES:
            return MODULES[module] + name.removeprefix(module)
    return name
