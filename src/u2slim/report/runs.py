"""Training runs as their folders keep them: the curves of the CSV logs, and what differs between the configs."""

import csv
import glob
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from u2slim.errors import UserError

log = logging.getLogger(__name__)

Curve = tuple[np.ndarray, np.ndarray]  # steps, values

MAX_SETTINGS = 6  # in a label
NOT_DRAWN = re.compile(r"^epoch$|side\d+$|_per_s$")

# Loggers, and places on a machine.
_NO_CHOICE = re.compile(r"^(hydra|logger)\b|(dir|path|folder|root)$")
_COVER_ALL = ("experiment", "debug")


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        folder: as the user gave it.
        curves: what its log holds, by column.
        choices: config group -> choice, in the order of the defaults list; empty where the run kept no .hydra.
        leaves: dotted key -> value of its config; a class stands under the key of what it makes.
        given: keys set on its command line.
        label: tells it apart from the runs beside it.
    """

    folder: Path
    curves: dict[str, Curve]
    choices: dict[str, str]
    leaves: dict[str, str]
    given: frozenset[str]
    label: str = ""


def read_runs(sources: Sequence[str]) -> list[Run]:
    """The labelled runs in or below folders, or globs of folders; a run that cannot be read is left out with a warning.

    Raises:
        UserError: a folder is missing or has no run, or no run can be read.
    """
    runs = []
    for folder in find_runs(sources):
        try:
            runs.append(read_run(folder))
        except UserError as error:
            log.warning("left out: %s", error)
    if not runs:
        raise UserError(f"None of the runs in runs={','.join(sources)} can be read.")
    return [replace(run, label=label) for run, label in zip(runs, labels(runs), strict=True)]


def find_runs(sources: Sequence[str]) -> list[Path]:
    """Run folders, each once, in the order of the sources and then by name, numbers by their size."""
    found: dict[Path, Path] = {}
    for source in sources:
        folder = Path(source)
        folders = [folder] if folder.is_dir() else [Path(path) for path in glob.glob(source, recursive=True)]
        if not folders:
            raise UserError(f"No folder at runs={source}; give the folder of a run, or one with runs below it.")
        logs = (path for folder in folders for path in folder.rglob("csv/version_*/metrics.csv"))
        runs = {path.parents[2] for path in logs if (path.parents[2] / "config.yaml").is_file()}
        if not runs:
            raise UserError(
                f"No run at or below runs={source}: a run has config.yaml and csv/version_*/metrics.csv "
                "(the first lines of a log appear after some steps)."
            )
        for run in sorted(runs, key=lambda run: [_numbered(part) for part in run.parts]):
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _numbered(name: str) -> list[tuple[bool, int, str]]:
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def read_run(folder: Path) -> Run:
    """A run without its label.

    Raises:
        UserError: its log or config is empty or damaged.
    """
    hydra = _yaml(folder / ".hydra" / "hydra.yaml").get("hydra", {})
    composed = _leaves(_yaml(folder / ".hydra" / "config.yaml"))
    leaves = {
        key: text
        for key, value in _leaves(_yaml(folder / "config.yaml")).items()
        # What repeats another setting says nothing of its own.
        if "${" not in str(composed.get(key)) and not _NO_CHOICE.search(key) and (text := _text(value))
    }
    choices = hydra.get("runtime", {}).get("choices", {})
    return Run(
        folder,
        read_curves(folder),
        {
            group.replace("/", "."): _text(choice)
            for group, choice in reversed(choices.items())
            if not _NO_CHOICE.search(group)
        },
        leaves,
        frozenset(text.lstrip("+~").split("=")[0] for text in hydra.get("overrides", {}).get("task", [])),
    )


def _yaml(path: Path) -> dict:
    """The content of a YAML file, its interpolations as they stand; nothing where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a config.")
    return content


def _leaves(config: dict, prefix: str = "") -> dict[str, Any]:
    result = {}
    for key, value in config.items():
        if isinstance(value, dict):
            result |= _leaves(value, f"{prefix}{key}.")
        elif key == "_target_":
            result[prefix.rstrip(".")] = str(value).rpartition(".")[2]
        else:
            result[f"{prefix}{key}"] = value
    return result


def _text(value: Any) -> str:
    """A setting as a command line has it, files without their folder; empty for folders of a machine."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if "/" in str(value) and re.search(r"\.[A-Za-z]\w*$", value):
        return PurePath(value).name
    return "" if PurePath(str(value)).is_absolute() else str(value)


def read_curves(folder: Path) -> dict[str, Curve]:
    """What a run logged, by column. A resumed run has several logs: from its first step on, the later one counts."""
    curves: dict[str, Curve] = {}
    paths = sorted(folder.glob("csv/version_*/metrics.csv"), key=lambda path: _numbered(path.parent.name))
    for later in map(_read_log, paths):
        start = min((steps[0] for steps, _ in later.values()), default=np.inf)
        for name, (steps, values) in curves.items():
            kept = steps < start
            if kept.any():
                more_steps, more_values = later.get(name, ((), ()))
                later[name] = np.append(steps[kept], more_steps).astype(int), np.append(values[kept], more_values)
        curves = later
    if not any(np.isfinite(values).any() for name, (_, values) in curves.items() if not NOT_DRAWN.search(name)):
        raise UserError(f"{paths[-1]} has nothing to draw yet.")
    return curves


def _read_log(path: Path) -> dict[str, Curve]:
    """One CSV file; of rows with the same step the last counts."""
    columns: dict[str, tuple[list[int], list[float]]] = {}
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            log.warning("%s ends within a line (still being written?); drawn without that line", path)
        for row in csv.DictReader(whole.splitlines()):
            step = int(float(row.pop("step")))
            for name, value in row.items():
                if value != "":
                    steps, values = columns.setdefault(name, ([], []))
                    values.append(float(value))
                    steps.append(step)
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserError(f"{path} is damaged, or not a log with a column `step` ({error!r}).") from error
    return {name: _in_order(np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}


def _in_order(steps: np.ndarray, values: np.ndarray) -> Curve:
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    last = np.append(steps[1:] != steps[:-1], True)
    return steps[last], values[last]


def labels(runs: Sequence[Run]) -> list[str]:
    """What tells each run from the others: choices of config groups, then single keys that these do not explain."""
    grouped = all(run.choices for run in runs)
    settings = [(run.choices | run.leaves | run.choices) if grouped else run.leaves for run in runs]
    given = frozenset().union(*(run.given for run in runs))
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    shown: dict[str, list[str | None]] = {}
    for key in sorted(keys, key=lambda key: (key not in _COVER_ALL, key not in runs[0].choices, key not in given)):
        values = [setting.get(key) for setting in settings]
        own = key in given and None not in values  # set by hand where all runs have it: no part of another choice
        if len(set(values)) > 1 and (own or not any(_explains(*choice, key, values) for choice in shown.items())):
            shown[key] = values
    named = list(shown) if len(shown) <= MAX_SETTINGS else _telling(shown)[:MAX_SETTINGS]
    more = f" and {len(shown) - len(named)} more" if len(shown) > len(named) else ""
    texts = []
    for index, run in enumerate(runs):
        parts = [f"{key}={shown[key][index]}" for key in named if shown[key][index] is not None]
        texts.append(" ".join(parts) + more if parts else run.folder.resolve().name)
    parent = os.path.commonpath([run.folder.resolve().parent for run in runs])
    texts = [
        text if texts.count(text) == 1 else f"{text} ({os.path.relpath(run.folder.resolve(), parent)})"
        for text, run in zip(texts, runs, strict=True)
    ]
    # A file name that is not UTF-8 reaches Python as characters that UTF-8 cannot hold.
    return [text.encode(errors="replace").decode() for text in texts]


def _explains(choice: str, choices: list[str | None], key: str, values: list[str | None]) -> bool:
    """Whether a key belongs to a choice and is the same wherever that choice is."""
    covered = choice in _COVER_ALL or f".{choice}." in f".{key}."
    return covered and len(set(zip(choices, values, strict=True))) == len(set(choices))


def _telling(shown: dict[str, list[str | None]]) -> list[str]:
    """The settings that each tell apart runs that those before it do not."""
    result: list[str] = []
    told = 1
    for key in shown:
        if (now := len(set(zip(*(shown[name] for name in (*result, key)), strict=True)))) > told:
            result.append(key)
            told = now
    return result
