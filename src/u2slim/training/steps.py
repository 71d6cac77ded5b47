"""Where a batch stands between optimizer steps and log points. Between log points nothing may wait for the device."""

import pytorch_lightning as pl


def will_be_logged(trainer: pl.Trainer) -> bool:
    """Within a training step: whether its values are logged."""
    return (trainer.global_step + 1) % trainer.log_every_n_steps == 0


def ends_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """After a batch: whether an optimizer step came with it, and not only a part of an accumulated gradient."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def was_logged(trainer: pl.Trainer, batch_idx: int) -> bool:
    """After a batch: whether it ended a step whose values are logged."""
    return ends_step(trainer, batch_idx) and trainer.global_step % trainer.log_every_n_steps == 0
