"""Checkpoints by optimizer step, at the end, and when the machine is wanted back."""

import inspect
import logging
import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.utilities.exceptions import SIGTERMException

from u2slim.files import free_bytes, write_whole
from u2slim.training.signals import Interrupted
from u2slim.training.steps import ends_step, was_logged

log = logging.getLogger(__name__)

_ENTRY = 350  # bytes of headers and padding around each tensor in the file


class StepCheckpoint(ModelCheckpoint):
    """`ModelCheckpoint` which also saves where training ends between two intervals: at its last step, or by a signal.

    SIGTERM, with which clusters take a machine back, ends the run after the step in progress with a checkpoint and
    exit status 0; with several processes, after the next step that is logged, for all must agree on it. Within a
    validation one process stops at once, since the checkpoint of that step is on disk already, and several at its end.
    Ctrl-C does the same with exit status 130, and a second Ctrl-C stops at once.

    `save_last="link"` makes `last.ckpt` a link to the newest checkpoint.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._asked_to_stop = False
        self._interrupted = False
        self._former_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # Lightning's own handler starts a collective wherever the signal finds the process, and with several processes
        # its loop asks for the signal, and so waits for the device, in every step.
        # upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/21487, of pull/20825, which
        # brought both; drop when no step asks and the handler only takes a note
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                handler = partial(self._note_signal, trainer)
                self._former_handlers[number] = signal.signal(number, handler)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if trainer.is_global_zero and not trainer.fast_dev_run:
            for left in Path(self.dirpath).glob(".*.part.*"):  # by a process that was killed while it wrote
                left.unlink()
            say_how_large(trainer)

    def _note_signal(self, trainer: pl.Trainer, number: int, frame: object) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            if trainer.is_global_zero:
                log.info("stopping after this step, with a checkpoint; Ctrl-C again stops at once")
        if not self._asked_to_stop and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)
        self._asked_to_stop = True

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if not ends_step(trainer, batch_idx):
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        asked = self._asked_to_stop
        if trainer.world_size > 1:
            asked = was_logged(trainer, batch_idx) and trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked or trainer.should_stop or trainer.global_step >= trainer.max_steps > 0:
            self._save_now(trainer)
        if asked:
            self._stop()

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if self._asked_to_stop and trainer.world_size == 1 and self._last_global_step_saved == trainer.global_step:
            self._stop()

    def _stop(self) -> NoReturn:
        raise Interrupted if self._interrupted else SIGTERMException

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_handler()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._restore_handler()

    def _restore_handler(self) -> None:
        while self._former_handlers:
            signal.signal(*self._former_handlers.popitem())

    def _save_now(self, trainer: pl.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)

    @staticmethod
    def _link_checkpoint(trainer: pl.Trainer, filepath: str, linkpath: str) -> None:
        """As Lightning's, but there is a last.ckpt at every moment."""
        # upstream: not reported as far as known (seen with pytorch-lightning 2.6.6, which removes the old link first);
        # drop when it renames a new one over it
        if trainer.is_global_zero:
            link(Path(filepath), Path(linkpath))
        trainer.strategy.barrier()


class KeepBest(ModelCheckpoint):
    """`ModelCheckpoint` by a score of the validation, with a link `best.ckpt` to the best so far."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.best_model_path and trainer.is_global_zero:
            best = Path(self.best_model_path)
            link(best, best.with_name("best.ckpt"))


def link(file: Path, name: Path) -> None:
    """Make `name`, in the same folder, a link to the file; a copy on a disk without links. It is there throughout."""

    def made(partial_path: Path) -> None:
        try:
            partial_path.symlink_to(file.name)
        except OSError:
            shutil.copy(file, partial_path)

    write_whole(name, made)


def say_how_large(trainer: pl.Trainer) -> None:
    """Log what the checkpoints to come will take, and warn where the disk has less."""
    left = trainer.max_steps - trainer.global_step
    if left <= 0:
        return
    count = 0
    for callback in trainer.checkpoint_callbacks:
        saves = -(-left // (callback._every_n_train_steps or trainer.val_check_interval))
        count += saves if callback.save_top_k == -1 else min(saves, callback.save_top_k)
    size = checkpoint_bytes(trainer)
    free = free_bytes(Path(trainer.checkpoint_callback.dirpath))
    text = f"{count} checkpoints of {size / 1e6:.1f} MB: {count * size / 1e9:.2f} GB, {free / 1e9:.1f} GB are free"
    if count * size > free:
        remedy = "callbacks.checkpoint.every_n_train_steps, 'callbacks=[default,keep_best]' or another hydra.run.dir"
        log.warning("%s, too little; change %s", text, remedy)
    else:
        log.info("%s", text)


def checkpoint_bytes(trainer: pl.Trainer) -> int:
    """About what a checkpoint takes: weights, what the optimizer keeps for each, and averaged weights."""
    tensors = trainer.lightning_module.state_dict().values()
    weights = sum(tensor.numel() * tensor.element_size() + _ENTRY for tensor in tensors)
    copies = 1 + any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    return weights * (copies + sum(moments(optimizer) for optimizer in trainer.optimizers))


def moments(optimizer: torch.optim.Optimizer) -> int:
    """How many numbers an optimizer keeps for each weight, found by one step of its kind on two."""
    probe = torch.zeros(2, requires_grad=True)
    probe.grad = torch.ones(2)
    kind = type(optimizer)
    known = inspect.signature(kind).parameters
    copy = kind([probe], **{name: value for name, value in optimizer.defaults.items() if name in known})
    copy.step()
    return sum(torch.is_tensor(value) and value.numel() == 2 for value in copy.state[probe].values())
