"""Averaged weights."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """Lightning's moving average of the weights, kept on the device that trains.

    Lightning makes it before the net is moved there, and so would copy all weights to the host in every step.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # upstream: not reported as far as known (seen with pytorch-lightning 2.6.6);
        # drop when WeightAveraging.setup takes another device than pl_module.device, the host's by then
        self._device = self._device or trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
