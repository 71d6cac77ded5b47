"""The W&B logger whose run continues when training does."""

import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from u2slim.errors import UserError
from u2slim.files import write_whole

RUN_ID = "wandb_id"  # the file in a run folder


class ResumableWandbLogger(WandbLogger):
    """`WandbLogger` which keeps its run's id in the file `wandb_id` of the run folder and takes it from there.

    W&B's own step is the training step, so that the parts of a resumed run follow on each other. What is logged again
    because a run was killed after its last checkpoint is not sent again.

    Args:
        save_dir: the run folder.
        id: a W&B run to continue with, whatever the file says.
        options: of `WandbLogger` except `prefix`, and through it of `wandb.init`.

    Raises:
        UserError: on first use, where nobody is logged in or W&B cannot be reached.
    """

    def __init__(self, save_dir: str, id: str | None = None, **options):
        super().__init__(save_dir=save_dir, id=id or _kept_id(Path(save_dir) / RUN_ID), **options)
        # upstream: https://github.com/wandb/wandb/pull/10909; drop when Lightning does not pass it (a KeyError here)
        del self._wandb_init["anonymous"]  # wandb warns of it on every start

    @property
    def experiment(self):
        from wandb.errors import Error  # slow to import, and only this logger needs it

        try:
            return super().experiment
        except Error as error:
            raise UserError(
                f"W&B does not start ({_first_sentence(error)}): log in with `wandb login`, or log without a network "
                "with logger.wandb.offline=true and upload later with `wandb sync`."
            ) from error

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is None:
            super().log_metrics(metrics)
        elif step >= self.experiment.step:
            self.experiment.log({**metrics, "trainer/global_step": step}, step=step)


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0].partition(". ")[0]


def _kept_id(file: Path) -> str | None:
    """The id in the file, which is written where it is missing; only the first process talks to W&B."""
    if rank_zero_only.rank:
        return None
    if not file.is_file():
        new = secrets.token_hex(6)  # not of the generators that a run seeds: two runs of one seed are two runs
        write_whole(file, lambda partial: partial.write_text(new + "\n"))
    return file.read_text().strip()


@rank_zero_only
def forget_run(folder: Path) -> None:
    """Make the next W&B run of this folder a new one."""
    (folder / RUN_ID).unlink(missing_ok=True)


@contextmanager
def wandb_ends_with() -> Iterator[None]:
    """Finish what was logged to W&B when a run ends, and tell it whether the run failed."""
    failed = True
    try:
        yield
        failed = False
    finally:
        if wandb := sys.modules.get("wandb"):
            wandb.finish(exit_code=int(failed))
