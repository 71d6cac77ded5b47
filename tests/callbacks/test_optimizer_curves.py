"""Learning rate and gradient norm as they reach the logs."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader

from u2slim.callbacks import OptimizerCurves


class Rows(Logger):
    """Keeps what is logged."""

    name = version = "rows"

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_metrics(self, metrics, step=None):
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, params):
        pass


class Linear(pl.LightningModule):
    """The loss w·x, whose gradient is x."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.ParameterList([torch.zeros(1), torch.zeros(1)])

    def training_step(self, batch, batch_idx):
        return sum((w * x).sum() for w, x in zip(self.w, batch[0], strict=True))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def test_norm_is_of_the_whole_step_before_clipping_and_rate_that_of_the_step():
    batches = [(3.0, 4.0), (9.0, 12.0), (0.0, 1.0), (0.0, 3.0), (6.0, 8.0), (6.0, 8.0), (1.0, 0.0), (1.0, 0.0)]
    logger = Rows()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=4,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        log_every_n_steps=2,
        logger=logger,
        callbacks=[OptimizerCurves()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Linear(), DataLoader(torch.tensor(batches), batch_size=1))
    logged = {step: (row["train/lr"], row["train/grad_norm"]) for step, row in logger.rows.items()}
    # Steps 1 and 3 of 0..3, each the mean of two batches: (0, 2) and (1, 0).
    assert logged == {1: pytest.approx((0.5, 2.0)), 3: pytest.approx((0.125, 1.0))}
