"""What the command-line doors share."""

import functools
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.errors import UserError
from src.files import write_whole
from src.runtime import Segmenter, open_segmenter

# Known and harmless: a deprecation inside Lightning, and its wish for more workers than small machines have.
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
# The sample stream resumes by itself, which Lightning cannot see.
warnings.filterwarnings("ignore", message=".*not resumable.*")

log = logging.getLogger(__name__)


def door(main: Callable) -> Callable:
    """Let a user's mistake end in its one sentence instead of the stack that found it."""

    @functools.wraps(main)
    def wrapped(config):
        try:
            return main(config)
        except (UserError, InstantiationException) as error:
            cause = error if isinstance(error, UserError) else error.__cause__
            if not isinstance(cause, UserError):
                raise
            sentence = str(cause)
            if sentence.startswith("Caught "):  # in a data-loading process, whose stack it carries before its sentence
                sentence = sentence.strip().splitlines()[-1].removeprefix("src.errors.UserError: ")
        except PermissionError as error:
            sentence = f"{error.filename} cannot be read or written: {error.strerror}. Choose another place."
        except KeyboardInterrupt:
            sentence = "interrupted"
        log.error("%s", sentence)
        sys.exit(1)

    return wrapped


def output_dir() -> Path:
    """The folder of this run (or of this job in a sweep)."""
    return Path(HydraConfig.get().runtime.output_dir)


def in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def plain(config: DictConfig) -> dict:
    """A config as a dictionary with everything resolved."""
    return OmegaConf.to_container(config, resolve=True)


def check_whole_number(cfg: DictConfig, name: str, least: int) -> None:
    """Raise UserError unless a door's setting is a whole number, and not too small a one."""
    if type(cfg[name]) is not int or cfg[name] < least:
        raise UserError(f"{name}={cfg[name]}: give a whole number from {least}.")


def configured_segmenter(cfg: DictConfig) -> Segmenter:
    """What `checkpoint`, or else `model` and `init`, of a door's config name."""
    return open_segmenter(cfg.checkpoint, plain(cfg.model), instantiate(cfg.init), cfg.size, cfg.runtime, cfg.stretch)


def write_json(path: Path, content: Any) -> None:
    write_whole(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))
