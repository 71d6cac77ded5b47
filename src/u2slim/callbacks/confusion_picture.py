"""A picture of which classes are taken for which, after each validation."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image

from u2slim.callbacks.validation_pictures import step_of_scores
from u2slim.evaluation.confusion import draw_confusion


class ConfusionPicture(pl.Callback):
    """Writes `confusion_N.png`; W&B, where it is on, gets it as `val/confusion`.

    Args:
        folder: where the pictures go.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def on_validation_end(self, trainer, pl_module) -> None:
        if not trainer.is_global_zero or pl_module.confusion is None:
            return
        path = self.folder / f"confusion_{trainer.global_step:06d}.png"
        title = f"step {trainer.global_step}: % of each true class"
        draw_confusion(path, pl_module.confusion.cpu().numpy(), pl_module.classes["names"], title)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                picture = np.asarray(Image.open(path).convert("RGB"))
                logger.log_image("val/confusion", [picture], step=step_of_scores(trainer))
