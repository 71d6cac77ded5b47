"""What the commands of research share: how they start, how they end, and what they ask of their config."""

import difflib
import errno
import functools
import io
import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import hydra._internal.utils
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from u2slim.command_help import help_text
from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.legacy import current_run
from u2slim.overrides import config_folders, expand_home, readable
from u2slim.processes import cpu_share
from u2slim.repository import CONFIGS

# Known and harmless: a deprecation inside Lightning, and its wish for more workers than small machines have.
# upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/21326 (closed, 2.6.6 still warns); drop when not
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
# The sample stream resumes by itself, which Lightning cannot see.
warnings.filterwarnings("ignore", message=".*not resumable.*")

log = logging.getLogger(__name__)

Main = Callable[[DictConfig], Any]

# Places that may not be written, names that there cannot be, and files that have the name of a folder.
_NOT_OURS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EEXIST),
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def research_command(name: str) -> Callable[[Main], Callable[[], None]]:
    """Make a function of a config a command, whose settings are those of conf/NAME.yaml.

    The command composes its config from the command line and calls the function with it. A user's mistake, which is
    a `UserError`, ends in its one sentence instead of the stack that found it.

    Args:
        name: of the config, which is also that of the command's folder under `outputs`.
    """

    def decorate(main: Main) -> Callable[[], None]:
        notes: list[str] = []

        @functools.wraps(main)
        def run(cfg: DictConfig) -> Any:
            for note in notes:
                log.info("%s", note)
            cfg = up_to_date(cfg)
            expand_home(cfg)
            return ending_in_a_sentence(main)(cfg)

        @functools.wraps(main)
        def command() -> None:
            if not CONFIGS.is_dir():
                sys.exit("Research commands run from a clone of the repository: pip install -e '.[train]' there.")
            try:
                # Changed in place, as Lightning starts further processes with what stands here.
                sys.argv[1:], notes[:] = readable(sys.argv[1:])
            except UserError as error:
                sys.exit(str(error))
            for stream in (sys.stdout, sys.stderr):  # so that a file name that is not UTF-8 can be printed
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
            if {"-h", "--help"} & set(sys.argv[1:]):
                if hasattr(signal, "SIGPIPE"):
                    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends without a stack
                print(help_text(name, sys.argv[1:], [*config_folders(sys.argv[1:]), CONFIGS]))
                return
            take_share()
            prepare_hydra()
            composing_in_a_sentence(name)
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(run)()

        return command

    return decorate


def composing_in_a_sentence(name: str) -> None:
    """Let a mistyped setting or choice of the command NAME end in a sentence, instead of Hydra's own text."""
    report = hydra._internal.utils.run_and_report  # the one place where Hydra's errors become text

    @functools.wraps(report)
    def run_and_report(run: Callable[[], Any]) -> Any:
        def run_or_say() -> Any:
            try:
                return run()
            except ConfigCompositionException as error:
                sys.exit(_composing(error, name))
            except OSError as error:  # of the run's folder; the command's own do not come here
                if error.errno not in _NOT_OURS:
                    raise
                sys.exit(f"{error.filename}: {error.strerror}. Give the run another folder: hydra.run.dir=FOLDER.")

        return report(run_or_say)

    hydra._internal.utils.run_and_report = run_and_report


def _composing(error: ConfigCompositionException, name: str) -> str:
    """What is wrong with the settings, and what is possible."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        choices = ", ".join(choice for choice in error.options if not choice.startswith("_"))
        return f"Could not find '{error.missing_cfg_file}'; choose one of: {choices}."
    unknown = re.match(r"Could not override '(.+?)'", str(error))
    if not unknown or not isinstance(error.__cause__, ConfigKeyError | ConfigAttributeError):
        return " ".join(f"{error} {error.__cause__ or ''}".split())
    shown = help_text(name, sys.argv[1:], [*config_folders(sys.argv[1:]), CONFIGS])
    known = dict(re.findall(r"^ +([\w./]+)=(.*?)(?: *#.*|  .*)?$", shown, re.MULTILINE))
    near = [f"{key}={known[key]}" for key in difflib.get_close_matches(unknown[1], known)]
    return f"{unknown[1]} is not a setting of these choices; {f'did you mean {near[0]}? ' if near else ''}See --help."


def take_share() -> None:
    """Let torch, here and in processes to come, take as many threads as a container's share is worth.

    `OMP_NUM_THREADS` says otherwise, as everywhere.
    """
    if (share := cpu_share()) is not None and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(share)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(share)


def prepare_hydra() -> None:
    """Teach Hydra what the files in conf/ need: the resolver `gpus`, and our launchers instead of the plugins' own."""
    OmegaConf.register_new_resolver("gpus", _gpus, replace=True)
    # Hydra warns of a config file that has the name of a plugin's own config, or refuses it.
    # upstream: https://github.com/hydra-ecosystem/hydra/issues/1471 (closed as documented);
    # drop when the plugins' configs have names of their own, or ours have
    Plugins.instance()  # has the plugins register theirs
    for path in (CONFIGS / "hydra").glob("*/*.yaml"):
        ConfigStore.instance().repo["hydra"].get(path.parent.name, {}).pop(path.name, None)


def _gpus(most: int = 64) -> int:
    import torch

    return min(most, torch.cuda.device_count())


def up_to_date(cfg: DictConfig) -> DictConfig:
    """The composed config with what files of earlier versions call otherwise under its name of today."""
    before = plain(cfg, resolve=False)
    if (after := current_run(before)) == before:
        return cfg
    cfg = OmegaConf.create(after)
    OmegaConf.set_struct(cfg, True)
    return cfg


def ending_in_a_sentence(main: Main) -> Main:
    """Let a user's mistake end in its one sentence, which also goes into the log file, and exit code 1."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> Any:
        try:
            return main(cfg)
        except (UserError, InstantiationException) as error:
            cause = error if isinstance(error, UserError) else error.__cause__
            if not isinstance(cause, UserError):
                _log_in_a_line(error)
                raise
            sentence = str(cause)
            if sentence.startswith("Caught "):  # in a data-loading process, whose stack it carries before its sentence
                sentence = sentence.strip().splitlines()[-1].removeprefix("u2slim.errors.UserError: ")
        except KeyboardInterrupt as interrupt:
            log.error("%s", str(interrupt) or "interrupted")
            sys.exit(128 + signal.SIGINT)
        except Exception as error:
            number, reason = getattr(error, "errno", None), getattr(error, "strerror", error)
            if isinstance(error, OSError) and number in _NOT_OURS:
                sentence = f"{error.filename} cannot be read or written: {reason}. Choose another place."
            elif number in _NO_SPACE:
                sentence = f"{reason}: what was written before is whole. Make room, or choose another folder."
            else:
                _log_in_a_line(error)
                raise
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


def warn_idle(reason: str, *names: str) -> None:
    """Say of settings, or of groups of them, that the command line names, that they have no effect, and why."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    keys = dict.fromkeys(text.lstrip("+").partition("=")[0].replace("/", ".") for text in typed)
    if idle := [key for key in keys if any(key == name or key.startswith(f"{name}.") for name in names)]:
        log.warning("no effect here: %s, as %s", ", ".join(idle), reason)


def plain(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """A config as a dictionary, by default with everything resolved."""
    content: Any = OmegaConf.to_container(config, resolve=resolve)
    return content


def check_whole_number(cfg: DictConfig, name: str, least: int) -> None:
    """Raise UserError unless a command's setting is a whole number, and not too small a one."""
    if type(cfg[name]) is not int or cfg[name] < least:
        raise UserError(f"{name}={cfg[name]}: give a whole number from {least}.")


def write_json(path: Path, content: Any) -> None:
    write_whole(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))
