"""What the settings of `eval.py` ask for, checked before anything is computed."""

from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from u2slim.cli import check_whole_number, plain, warn_idle
from u2slim.data.datamodule import OF_TRAINING
from u2slim.errors import UserError
from u2slim.evaluation.entries import Model, net_model, open_models
from u2slim.images.preprocess import given_preprocess
from u2slim.zoo.checkpoints import load_net


def configured_models(cfg: DictConfig) -> dict[str, Model]:
    """What `models`, or else `checkpoint`, or else `model` and `init` name."""
    if cfg.models is not None and (cfg.checkpoint or cfg.init):
        raise UserError("Give models=, or checkpoint=, or init=: not two of them.")
    refine = instantiate(cfg.refine)
    return {
        name: replace(model, refine=refine) if model.runner else model for name, model in _named_models(cfg).items()
    }


def reference(cfg: DictConfig) -> dict[str, Model]:
    """The net that `agree_with` names, by its name, with the masks refined as all are; nothing where it is null.

    Raises:
        UserError: there is no such net, or it tells classes apart.
    """
    if cfg.agree_with is None:
        return {}
    runtime = cfg.runtime[0] if OmegaConf.is_list(cfg.runtime) else cfg.runtime
    name = f"agree_with={cfg.agree_with}"
    model = open_models({name: str(cfg.agree_with)}, runtime)[name]
    if model.runner and model.runner.labels:
        raise UserError(f"{name} tells classes apart; name a net that makes masks.")
    return {name: replace(model, refine=instantiate(cfg.refine)) if model.runner else model}


def _named_models(cfg: DictConfig) -> dict[str, Model]:
    named = cfg.checkpoint if cfg.models is None else cfg.models
    if named is None:
        net = load_net(None, plain(cfg.model), instantiate(cfg.init), cfg.size)
        return {net.name: net_model(net, net.preprocess.size, cfg.runtime)}
    named = OmegaConf.to_object(named) if OmegaConf.is_config(named) else named
    given = given_preprocess(cfg.mean, cfg.std, cfg.scale)
    if not OmegaConf.is_list(cfg.runtime):
        return open_models(named, cfg.runtime, given)
    return {
        f"{name} ({runtime})": model
        for runtime in cfg.runtime
        for name, model in open_models(named, runtime, given).items()
    }


def checked(cfg: DictConfig) -> list[bool]:
    """The variants that `stretch` asks for, when all settings make sense."""
    for name, minimum in {"latency": 0, "pictures": 0, "workers": 1}.items():
        if name != "workers" or cfg.workers is not None:
            check_whole_number(cfg, name, minimum)
    stretches = list(cfg.stretch) if OmegaConf.is_list(cfg.stretch) else [cfg.stretch]
    if not stretches or len(set(stretches)) < len(stretches) or any(type(one) is not bool for one in stretches):
        raise UserError(f"stretch={cfg.stretch}: give true, false or [true,false].")
    if type(cfg.report) is not bool:
        raise UserError(f"report={cfg.report}: give true or false.")
    return stretches


def warn_of_idle(cfg: DictConfig) -> None:
    """Say which settings of the command line no score depends on."""
    warn_idle("only training reads it", *OF_TRAINING)
    if not cfg.init:
        warn_idle("a checkpoint brings its own", "size", "model")
    if not cfg.report:
        warn_idle("they are for report=true", "pictures")


def fresh(path: Path) -> Path:
    """The path, with nothing there."""
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    return path
