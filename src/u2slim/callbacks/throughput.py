"""Training speed in the progress bar and the logs."""

import time

import pytorch_lightning as pl

from u2slim.training.steps import was_logged


class Throughput(pl.Callback):
    """Logs `train/images_per_s`, over all processes, averaged since the last log; validation does not count."""

    def __init__(self):
        self._images = 0
        self._since = 0.0

    def on_train_start(self, trainer, pl_module) -> None:
        self._restart()

    def on_validation_end(self, trainer, pl_module) -> None:
        self._restart()

    def _restart(self) -> None:
        self._images, self._since = 0, time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._images += len(batch["image"]) * trainer.world_size
        if was_logged(trainer, batch_idx):
            rate = self._images / (time.perf_counter() - self._since)
            pl_module.log("train/images_per_s", rate)
            self._restart()
