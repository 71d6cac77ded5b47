"""Which learning rate to train with: Lightning's range test (Smith 2017)."""

import logging
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.tuner import Tuner

from u2slim.errors import UserError
from u2slim.files import write_whole

log = logging.getLogger(__name__)

STEPS = 100


def find_learning_rate(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule, folder: Path
) -> float:
    """Train for a hundred steps at rising learning rates and return the one where the loss falls fastest.

    The losses are drawn in `lr_find.png`.

    Raises:
        UserError: the losses fall nowhere.
    """
    finder = Tuner(trainer).lr_find(
        task, datamodule=data, min_lr=1e-6, max_lr=1, num_training=STEPS, attr_name="learning_rate", update_attr=False
    )
    suggestion = finder.suggestion()
    if suggestion is None:
        raise UserError("The loss fell at no learning rate; try init=pretrained, another loss, or more data.")
    picture = folder / "lr_find.png"
    figure = finder.plot(suggest=True)
    write_whole(picture, lambda partial: figure.savefig(partial, dpi=100, format="png"))
    log.info("the loss falls fastest at optimizer.lr=%.2g; the curve: %s", suggestion, picture)
    return suggestion
