"""Pictures of what the net does, after each validation."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from src.images import write_png


class ValidationPictures(pl.Callback):
    """Writes `step_N.png` with rows of image, mask and prediction, and sends it to W&B where that is on.

    Args:
        folder: where the pictures go.
        images: how many rows, always of the same validation images.
    """

    def __init__(self, folder: str, images: int = 8):
        self.folder, self.images = Path(folder), images
        self._rows: list[np.ndarray] = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if not trainer.is_global_zero:
            return
        for image, mask, probability in zip(batch["image"], batch["mask"], outputs, strict=True):
            if len(self._rows) < self.images:
                self._rows.append(_row(image, mask, probability))

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        if not self._rows:
            return
        grid = np.concatenate(self._rows)
        self._rows = []
        write_png(self.folder / f"step_{trainer.global_step:06d}.png", grid)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("val/pictures", [grid], step=trainer.global_step)


def _row(image_CHW: torch.Tensor, mask_1HW: torch.Tensor, probability_1HW: torch.Tensor) -> np.ndarray:
    photo = image_CHW.permute(1, 2, 0).cpu().numpy()
    grays = [(t[0].detach().float() * 255).round().byte().cpu().numpy() for t in (mask_1HW, probability_1HW)]
    return np.concatenate([photo, *(np.repeat(gray[..., None], 3, 2) for gray in grays)], 1)
