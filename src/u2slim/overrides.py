"""Command-line overrides as a shell hands them over, made readable for Hydra.

Hydra reads the value of an override by a grammar: `2024` is a number, `a,b` a sweep, and `my data (1)` an error. For a
path that is wrong, as its name is whatever it is. So before Hydra sees them, overrides are rewritten by two rules:

1. A value that the grammar cannot read is taken literally, whatever the setting.
2. The value of a path is taken literally wherever the grammar would read it as anything but that text. Only `null`,
   a value that is quoted already, interpolations such as `${now:%Y}`, lists for the few settings that are lists of
   paths, and with `-m` commas between several paths keep the meaning that Hydra gives them.

A dictionary for one of a few settings is put in place of what a config has there, to which Hydra would add it.

What is rewritten stays as it is when it is rewritten again, as in the processes that a run or a sweep starts.
"""

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import GrammarParseError

from u2slim.errors import UserError
from u2slim.files import user_path

# The last part of a path setting's name.
_PATH_NAME = re.compile(
    "cache|calibration|checkpoint|config|dirpath|filename|manifest|models|out|output|photos|root|runs|store|teacher"
    "|unlabelled|weights|(.*_)?(dir|file|folder|path|subdir)"
)
# shards.SET=FILE, sets.NAME.images=FOLDER
_NAMED_PATHS = re.compile(r"(^|\.)((shards|models)\.|sets\.[^.]+\.(images|masks)$)")
_ALSO_PATHS = frozenset(
    (
        *("agree_with", "davis", "dense", "export.images", "export.onnx2tf", "hydra.sweep.subdir"),
        *("init.lstsq.keep", "measured", "submit"),
        *("data.images", "data.masks", "data.val_images", "data.val_masks", "data.val_list", "own.images", "own.masks"),
    )
)
_NO_PATHS = frozenset(("callbacks.checkpoint", "loss.weights"))
_SWEPT = "hydra.sweeper.params."  # holds what is tried of other settings
_REPLACED = frozenset(("data.test", "data.labels", "data.sets"))
_LISTS_OF_PATHS = frozenset(("models", "runs"))

# Values and settings that have another name today.
RENAMED = {"experiment": {"plan": "baseline"}, "export.outputs": {"fused": "first"}}
RENAMED_SETTINGS = {
    "callbacks.stop.fused": "callbacks.stop.answer",
    "export.least_iou": "export.min_iou",
    "export.most_loss": "export.max_loss",
}

_OVERRIDE = re.compile(r"(?P<added>\+{0,2})(?P<key>[A-Za-z_$][\w$./@:-]*)=(?P<value>.*)", re.DOTALL | re.ASCII)
# Hydra's flags whose value is an argument of its own.
_FLAGS_WITH_VALUE = ("--cfg", "--package", "--config-path", "--config-name", "--config-dir", "--experimental-rerun")
_SHORT_FLAGS_WITH_VALUE = ("-c", "-p", "-cp", "-cn", "-cd")
_NESTED = re.compile(r"[][(){}'\"]")


def is_path(key: str) -> bool:
    """Whether a setting, by its dotted name, is the path of a file or folder, or a list of such."""
    named = _PATH_NAME.fullmatch(key.rpartition(".")[2]) or _NAMED_PATHS.search(key) or key in _ALSO_PATHS
    return bool(named) and key not in _NO_PATHS and not key.startswith(_SWEPT)


def readable(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a command as Hydra shall see them, and sentences about what has been renamed.

    Raises:
        UserError: a value holds `${` that begins no interpolation, which no setting of Hydra's can hold.
    """
    result, notes = [], []
    sweeps = any(text in ("-m", "--multirun", "hydra.mode=MULTIRUN") for text in arguments)
    after_flag = False
    for text in arguments:
        match = None if after_flag or text.startswith("-") else _OVERRIDE.fullmatch(text)
        after_flag = not after_flag and _takes_value(text)
        if match is None:
            result.append(text)
            continue
        key, value = match["key"], match["value"]
        if key in RENAMED_SETTINGS:
            notes.append(f"{key} is now called {RENAMED_SETTINGS[key]}")
            key = RENAMED_SETTINGS[key]
        if key in RENAMED:
            value, more = _renamed(key, value)
            notes += more
        if key == "hydra.run.dir" and "LOCAL_RANK" in os.environ and re.fullmatch('".*"', value, re.DOTALL):
            # Lightning starts processes with this value in quotes, but does not escape what is in it.
            # upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/16694 (closed); drop when it does
            value = quoted(key, value[1:-1])
        is_whole = key in _REPLACED and not match["added"] and isinstance(_read(value), dict | list)
        if is_whole and result[-1:] != [f"{key}=null"]:
            result.append(f"{key}=null")
        result.append(f"{match['added']}{key}={_readable_value(key, value, sweeps)}")
    return result, notes


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders of a user's own configs, --config-dir FOLDER."""
    named = [text.partition("=")[2] for text in arguments if text.startswith(("--config-dir=", "-cd="))]
    named += [value for flag, value in pairwise(arguments) if flag in ("--config-dir", "-cd")]
    return [Path(folder) for folder in named]


def override(key: str, value: str | Path) -> str:
    """A setting for a command line that gives exactly this text, for processes that a command starts."""
    return f"{key}={quoted(key, str(value))}"


def quoted(key: str, text: str) -> str:
    """The text as Hydra reads it as just that text.

    Raises:
        UserError: it holds `${` that begins no interpolation.
    """
    try:
        OmegaConf.create({"text": text})
    except GrammarParseError as error:
        raise UserError(
            f"{key}={text}: `${{` would begin an interpolation of Hydra; rename that file or folder, or make a "
            "link to it."
        ) from error
    return QuotedString(text, Quote.single).with_quotes()


def expand_home(config: DictConfig) -> None:
    """Put the user's home folder in place of `~` at the start of every path in a composed config."""
    for container, name, key, value in list(_strings(config)):
        if is_path(key):
            container[name] = _expanded(value)


def _takes_value(text: str) -> bool:
    if text in _SHORT_FLAGS_WITH_VALUE:
        return True
    return len(text) > 2 and any(flag.startswith(text) for flag in _FLAGS_WITH_VALUE)  # argparse takes short forms


def _renamed(key: str, value: str) -> tuple[str, list[str]]:
    notes = []

    def today(match: re.Match) -> str:
        name = match[0]
        if name in RENAMED[key]:
            notes.append(f"{key}={name} is now called {key}={RENAMED[key][name]}")
        return RENAMED[key].get(name, name)

    return re.sub(r"[^][,\s]+", today, value), notes


def _readable_value(key: str, text: str, sweeps: bool) -> str:
    value = _read(text)
    if not is_path(key):
        return quoted(key, text) if value is _UNREADABLE else text
    if key.startswith("hydra."):  # is never swept, and is used before there is a config that `expand_home` could see
        return _readable_path(key, text, expand=True)
    if sweeps and "," in text and (value is _UNREADABLE or not _NESTED.search(text)):
        return ",".join(_readable_path(key, part) for part in text.split(","))
    if sweeps and isinstance(value, Sweep):
        return text
    if key in _LISTS_OF_PATHS and text[:1] + text[-1:] in ("[]", "{}"):
        return _readable_paths(key, text, value)
    return _readable_path(key, text)


def _readable_paths(key: str, text: str, value: Any) -> str:
    """A list [PATH,PATH] or a dictionary {NAME: PATH}, which Hydra may have been able to read or not."""
    parts = text[1:-1].split(",")
    if text[0] == "[" and text[1:-1].strip() and (value is _UNREADABLE or not _NESTED.search(text[1:-1])):
        return f"[{','.join(_readable_path(key, part.strip()) for part in parts)}]"
    if value is not _UNREADABLE:
        return text
    named = [part.partition(":") for part in parts]
    if not all(colon for _, colon, _ in named):
        return _readable_path(key, text)
    return f"{{{','.join(f'{name}:{_readable_path(key, path.strip())}' for name, _, path in named)}}}"


def _readable_path(key: str, text: str, expand: bool = False) -> str:
    """One path: as it is where Hydra reads the same, else in quotes."""
    value = _read(text)
    if value is None or isinstance(value, QuotedString) or (isinstance(value, str) and value == text):
        plain = value.text if isinstance(value, QuotedString) else text
        return quoted(key, _expanded(plain)) if expand and _expanded(plain) != plain else text
    return quoted(key, _expanded(text) if expand else text)


_UNREADABLE = object()


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _read(text: str) -> Any:
    """The value that Hydra reads."""
    try:
        return _parser().parse_override(f"key={text}")._value
    except HydraException:
        return _UNREADABLE


def _expanded(path: str) -> str:
    return str(user_path(path)) if path == "~" or path.startswith("~/") else path


def _strings(config: DictConfig | ListConfig, prefix: str = "") -> Iterator[tuple[Any, str | int, str, str]]:
    """(container, name in it, dotted key, value) of each text that stands in a config and is no interpolation."""
    in_list = isinstance(config, ListConfig)
    for name in range(len(config)) if in_list else list(config):
        key = prefix.rstrip(".") if in_list else f"{prefix}{name}"  # the elements of a list are what the list is
        if OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name):
            continue
        value = config[name]
        if OmegaConf.is_config(value):
            yield from _strings(value, f"{key}.")
        elif isinstance(value, str):
            yield config, name, key, value
