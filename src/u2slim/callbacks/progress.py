"""How far training is: a bar in a terminal, lines in a log file."""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from shutil import get_terminal_size

from pytorch_lightning.callbacks import RichProgressBar
from rich.progress import BarColumn

from u2slim.training.steps import was_logged

log = logging.getLogger(__name__)


class Progress(RichProgressBar):
    """Lightning's rich bar over optimizer steps; where output is not a terminal, a line now and then instead.

    Args:
        line_every_s: seconds between those lines.
        shown: the logged values beside the step; None: the loss of the net's answer, the speed and the task's score.
    """

    def __init__(self, line_every_s: float = 20, shown: Sequence[str] | None = None, **options):
        super().__init__(**options)
        self.line_every_s, self.shown = line_every_s, shown
        self._start = self._last_line = 0.0
        self._first_step = 0
        self._metrics: dict[str, float] = {}

    def on_train_start(self, trainer, pl_module) -> None:
        super().on_train_start(trainer, pl_module)
        if self.shown is None:
            self.shown = (f"train/{pl_module.answer}", "train/images_per_s", *pl_module.shown)
        self._start = self._last_line = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        # Reading values waits for the device. Lightning itself would read those logged for its bar after every batch.
        # upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/20300 (closed, but 2.6.6 reads still);
        # drop when RichProgressBar.on_train_batch_end heeds refresh_rate
        if was_logged(trainer, batch_idx):
            logged = trainer.callback_metrics
            self._metrics = {name: round(float(logged[name]), 4) for name in self.shown if name in logged}
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        now = time.monotonic()
        # Only the enabled bar, that of the first process, has a console.
        if self.is_disabled or self._console.is_terminal or now - self._last_line < self.line_every_s:
            return
        self._last_line = now
        step, total = trainer.global_step, trainer.max_steps
        left = (now - self._start) / max(1, step - self._first_step) * (total - step)
        values = ", ".join(f"{name} {value}" for name, value in self._metrics.items())
        at_most = "at most " * (trainer.early_stopping_callback is not None)
        told = filter(None, (f"step {step} of {total}", values, f"{at_most}{timedelta(seconds=round(left))} left"))
        log.info("%s", ", ".join(told))

    def get_metrics(self, trainer, pl_module) -> dict:
        """What fits beside the bar in 80 columns: loss and score, without the words that both share."""
        shown = {name: value for name, value in self._metrics.items() if name != "train/images_per_s"}
        return {name.rpartition("/")[2]: round(value, 3) for name, value in shown.items()}

    def configure_columns(self, trainer) -> list:
        columns = super().configure_columns(trainer)
        for bar in filter(lambda column: isinstance(column, BarColumn), columns):
            bar.bar_width = min(40, max(10, get_terminal_size().columns - 70))  # the rest of the line takes 70
        return columns

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"
