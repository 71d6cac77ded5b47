"""Learning-rate schedules by optimizer step."""

import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from u2slim.errors import UserError

SCHEDULE_SHAPES = ("constant", "cosine", "poly")


@dataclass
class Factor:
    """Of the learning rate at a step: a linear rise over `warmup_steps`, then `shape` down to `final`.

    `poly` is (1 - part of the way)^`power`; `cosine` half a period; `constant` stays at 1.

    Raises:
        UserError: an unknown shape, or no step is left after the warm-up.
    """

    total_steps: int
    warmup_steps: int = 0
    shape: str = "cosine"
    final: float = 0.0
    power: float = 0.9

    def __post_init__(self) -> None:
        if self.shape not in SCHEDULE_SHAPES:
            raise UserError(f"scheduler.shape={self.shape} is not known; choose one of: {', '.join(SCHEDULE_SHAPES)}.")
        if not 0 <= self.warmup_steps < self.total_steps:
            raise UserError(
                f"scheduler.warmup_steps={self.warmup_steps}: give 0 to {self.total_steps - 1}, fewer than "
                f"trainer.max_steps={self.total_steps}."
            )

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        way = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        left = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * way)) / 2, "poly": (1 - way) ** self.power}
        return self.final + (1 - self.final) * left[self.shape]


def schedule(optimizer: Optimizer, **options: Any) -> LambdaLR:
    """The scheduler of `Factor(**options)`, all of whose numbers go into checkpoints."""
    return LambdaLR(optimizer, Factor(**options))
