"""What the command-line doors share."""

import errno
import functools
import json
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.repository import CONFIGS
from u2slim.runtime import Segmenter, open_segmenter

# Known and harmless: a deprecation inside Lightning, and its wish for more workers than small machines have.
# upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/21326 (closed, 2.6.6 still warns); drop when not
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
# The sample stream resumes by itself, which Lightning cannot see.
warnings.filterwarnings("ignore", message=".*not resumable.*")

log = logging.getLogger(__name__)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

OmegaConf.register_new_resolver("gpus", lambda most=64: min(most, torch.cuda.device_count()), replace=True)


def _prefer_own_presets() -> None:
    # Hydra warns of a config file that has the name of a plugin's own config, or refuses it.
    # upstream: https://github.com/hydra-ecosystem/hydra/issues/1471 (closed as documented);
    # drop when the plugins' configs have names of their own, or ours have
    Plugins.instance()  # has the plugins register theirs
    for path in (CONFIGS / "hydra").glob("*/*.yaml"):
        ConfigStore.instance().repo["hydra"].get(path.parent.name, {}).pop(path.name, None)


_prefer_own_presets()


def door(main: Callable) -> Callable:
    """Let a user's mistake end in its one sentence instead of the stack that found it."""

    @functools.wraps(main)
    def wrapped(config):
        try:
            return main(config)
        except (UserError, InstantiationException) as error:
            cause = error if isinstance(error, UserError) else error.__cause__
            if not isinstance(cause, UserError):
                _log_in_a_line(error)
                raise
            sentence = str(cause)
            if sentence.startswith("Caught "):  # in a data-loading process, whose stack it carries before its sentence
                sentence = sentence.strip().splitlines()[-1].removeprefix("u2slim.errors.UserError: ")
        except PermissionError as error:
            sentence = f"{error.filename} cannot be read or written: {error.strerror}. Choose another place."
        except KeyboardInterrupt as interrupt:
            log.error("%s", str(interrupt) or "interrupted")
            sys.exit(128 + signal.SIGINT)
        except Exception as error:
            if getattr(error, "errno", None) not in _NO_SPACE:
                _log_in_a_line(error)
                raise
            sentence = f"{error.strerror}: what was written before is whole. Make room, or choose another folder."
        log.error("%s", sentence)
        sys.exit(1)

    return wrapped


def _log_in_a_line(error: Exception) -> None:
    # For the log file, whose readers do not see the stack that follows in the terminal.
    log.error("%s: %s", type(error).__name__, " ".join(str(error).split())[:500])


def output_dir() -> Path:
    """The folder of this run (or of this job in a sweep)."""
    return Path(HydraConfig.get().runtime.output_dir)


def in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def folder_is_given() -> bool:
    """Whether the run's folder is one that the command line, or a sweep, names, and not one named by the date."""
    return in_sweep() or any(text.startswith("hydra.run.dir=") for text in HydraConfig.get().overrides.hydra)


def plain(config: DictConfig) -> dict:
    """A config as a dictionary with everything resolved."""
    return OmegaConf.to_container(config, resolve=True)


def check_whole_number(cfg: DictConfig, name: str, least: int) -> None:
    """Raise UserError unless a door's setting is a whole number, and not too small a one."""
    if type(cfg[name]) is not int or cfg[name] < least:
        raise UserError(f"{name}={cfg[name]}: give a whole number from {least}.")


def configured_segmenter(cfg: DictConfig, streams: int = 1) -> Segmenter:
    """What `checkpoint`, or else `model` and `init`, of a door's config name, for so many threads at once."""
    init, model = instantiate(cfg.init), plain(cfg.model)
    return open_segmenter(cfg.checkpoint, model, init, cfg.size, cfg.runtime, cfg.stretch, streams)


def write_json(path: Path, content: Any) -> None:
    write_whole(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))
