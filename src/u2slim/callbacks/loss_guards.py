"""Callbacks that watch the training losses, which stay on the device between the steps at which they are looked at."""

import logging
import math
from pathlib import Path

import pytorch_lightning as pl
import torch

from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.training.steps import ends_step, was_logged

log = logging.getLogger(__name__)

MAX_KEPT = 20  # batches
REMEDY = (
    "Earlier checkpoints are intact. Start again with a lower optimizer.lr, a warm-up (scheduler=warmup) or "
    "trainer.precision=32-true."
)


class StopAtNonFinite(pl.Callback):
    """Ends training when a loss is NaN or infinite, before a checkpoint is written and within one log interval.

    The first such batch goes to `nonfinite_step_N.pt`: its images (B, 3, H, W) uint8, masks, names, step and loss.

    Args:
        folder: where that file goes.

    Raises:
        UserError: it names the step, the images and the file.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self._recent: list[tuple[int, torch.Tensor, dict]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._recent.append((trainer.global_step, outputs["total"], batch))
        if was_logged(trainer, batch_idx) or len(self._recent) >= MAX_KEPT:
            self._check(trainer)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        self._check(trainer)
        if not torch.stack([parameter.isfinite().all() for parameter in pl_module.parameters()]).all():
            raise UserError(
                f"The weights are not finite after step {trainer.global_step}, although its loss was; they are not "
                "saved. " + REMEDY
            )

    def on_train_end(self, trainer, pl_module) -> None:
        self._check(trainer)

    def _check(self, trainer: pl.Trainer) -> None:
        recent, self._recent = self._recent, []
        losses = torch.stack([loss for _, loss, _ in recent]).tolist() if recent else []
        bad = next((index for index, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if not trainer.strategy.reduce_boolean_decision(bad is not None, all=False):
            return
        if bad is None:
            raise UserError("Another process met a loss that is not finite; its message names the images.")
        step, _, batch = recent[bad]
        rank = f"_process_{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = self.folder / f"nonfinite_step_{step:06d}{rank}.pt"
        kept = {"step": step, "loss": losses[bad], "names": list(batch["name"])}
        kept |= {name: batch[name].cpu() for name in ("image", "mask")}
        write_whole(path, lambda partial: torch.save(kept, partial))
        raise UserError(
            f"The loss is {losses[bad]} at step {step}, on {', '.join(batch['name'])}; that batch is in {path}. "
            + REMEDY
        )


class LossMeans(pl.Callback):
    """Base of callbacks that look at the means of losses and masks over `over_steps` steps, where there are masks."""

    def __init__(self, over_steps: int):
        self.over_steps = over_steps
        self._sums: torch.Tensor | None = None
        self._count = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        share = outputs.get("labelled", 1)  # of the batch; the masks of the rest are zero
        values = torch.stack([share * outputs["total"], share * outputs["answer"], batch["mask"].float().mean()])
        self._sums = values if self._sums is None else self._sums.to(values.device) + values
        self._count += share
        if trainer.global_step % self.over_steps == 0 and ends_step(trainer, batch_idx):
            sums = torch.cat([self._sums, self._sums.new_tensor([self._count])])
            *sums, count = trainer.strategy.reduce(sums, reduce_op="mean").tolist()
            self._sums, self._count = None, 0
            if count:
                self.look(trainer, *(value / count for value in sums))

    def state_dict(self) -> dict:
        return {"sums": self._sums, "count": self._count}

    def load_state_dict(self, state_dict: dict) -> None:
        self._sums, self._count = state_dict["sums"], state_dict["count"]

    def look(self, trainer: pl.Trainer, loss: float, answer: float, foreground: float) -> None:
        """Called with the means over all processes of the total, the term of the net's answer and the masks."""
        raise NotImplementedError


class BaseRate(LossMeans):
    """Warns where the answer's loss stands at the entropy of a constant prediction: only the masks' mean is learnt.

    With `tolerance` .02, a mean loss within 2 % of that entropy.
    """

    def __init__(self, over_steps: int = 1000, tolerance: float = 0.02):
        super().__init__(over_steps)
        self.tolerance = tolerance

    def look(self, trainer: pl.Trainer, loss: float, answer: float, foreground: float) -> None:
        if not getattr(trainer.lightning_module.loss, "is_cross_entropy", False):
            return
        entropy = base_rate_entropy(foreground)
        if trainer.global_step <= self.over_steps:
            text = "the masks' foreground share is %.3f: predicting it everywhere has a loss of %.4f"
            log.info(text, foreground, entropy)
        if abs(answer - entropy) <= self.tolerance * entropy:
            log.warning(
                "the loss of the net's answer stayed at %.4f for %d steps, as if it predicted the foreground's share "
                "%.3f everywhere: it cannot tell subjects from backgrounds. Try another optimizer.lr or "
                "init=pretrained, and look at the masks",
                answer,
                self.over_steps,
                foreground,
            )


def base_rate_entropy(foreground: float) -> float:
    """The least mean cross-entropy of a constant prediction, in nats, at a foreground share in 0..1."""
    return sum(-share * math.log(share) for share in (foreground, 1 - foreground) if share > 0)


class StopBelow(LossMeans):
    """Ends training once the mean total, or the mean loss of the net's answer, is low enough.

    Args:
        total, answer: the bounds.
        over_steps: the means are taken over so many steps, one such part of training after the other.
    """

    def __init__(self, total: float, answer: float, over_steps: int):
        super().__init__(over_steps)
        self.total, self.answer = total, answer

    def look(self, trainer: pl.Trainer, loss: float, answer: float, foreground: float) -> None:
        if loss < self.total or answer < self.answer:
            means = f"means over {self.over_steps} steps: total {loss:.4f}, answer {answer:.4f}"
            log.info("stopping at step %d (%s)", trainer.global_step, means)
            trainer.should_stop = True
