"""The sampler of a search that may be interrupted: what its folder's jobs were given is proposed again."""

from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

_NONE: Any = object()


class RecordedTPESampler(TPESampler):
    """optuna's TPE sampler, but for the jobs that a sweep's folder holds already.

    Its seed alone would not do: once an interrupted or failed trial has a score, what comes after is another proposal.
    What is recorded is still drawn, too, so that the trials after it are those of a search that nothing interrupted.

    Args:
        folder: of the sweep that continues; None: a new one.
        options: TPESampler's own.
    """

    def __init__(self, folder: str | Path | None = None, **options: Any):
        super().__init__(**options)
        self.folder = folder and Path(folder)
        self.first: int | None = None  # trial of this process, whose job is number 0

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        drawn = super().sample_independent(study, trial, param_name, param_distribution)
        if self.first is None:
            self.first = trial.number
        known = _recorded(self.folder, trial.number - self.first).get(param_name) if self.folder else None
        value = _NONE if known is None else _value(known, param_distribution)
        return drawn if value is _NONE else value


def _recorded(folder: Path, job: int) -> dict[str, str]:
    """The settings that a job was started with."""
    path = folder / str(job) / ".hydra" / "overrides.yaml"
    overrides = yaml.safe_load(path.read_text()) if path.is_file() else None
    return dict(override.split("=", 1) for override in overrides or ())


def _value(text: str, distribution: BaseDistribution) -> Any:
    """What the distribution has for a value as text; `_NONE` where that is no part of it any more."""
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if str(choice) == text), _NONE)
    try:
        number = float(text)
        return distribution.to_external_repr(number) if distribution._contains(number) else _NONE
    except ValueError:
        return _NONE
