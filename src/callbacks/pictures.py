"""Pictures of what the net does, after each validation."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from src.images import write_png

CLASSES = {0: "background", 1: "salient"}


class ValidationPictures(pl.Callback):
    """Writes `step_N.png` with rows of image, mask and prediction.

    Where W&B is on it gets that picture as `val/pictures`, and as `val/masks` each image with the mask and the
    prediction, both cut at one half, to be laid over it.

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
        rows, self._rows = self._rows, []
        grid = np.concatenate(rows)
        write_png(self.folder / f"step_{trainer.global_step:06d}.png", grid)
        # As Lightning logs the scores of this validation: while it trains the first step is 0.
        step = max(0, trainer.global_step - (trainer.state.fn == "fit"))
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("val/pictures", [grid], step=step)
                images, masks = zip(*map(_overlay, rows), strict=True)
                logger.log_image("val/masks", list(images), step=step, masks=list(masks))


def _overlay(row_HWC: np.ndarray) -> tuple[np.ndarray, dict]:
    """A row's image, and its mask and prediction as W&B takes them."""
    image, *masks = np.split(row_HWC, 3, axis=1)
    names = ("ground_truth", "prediction")
    return image, {
        name: {"mask_data": (mask[..., 0] >= 128).astype(np.uint8), "class_labels": CLASSES}
        for name, mask in zip(names, masks, strict=True)
    }


def _row(image_CHW: torch.Tensor, mask_1HW: torch.Tensor, probability_1HW: torch.Tensor) -> np.ndarray:
    photo = image_CHW.permute(1, 2, 0).cpu().numpy()
    grays = [(t[0].detach().float() * 255).round().byte().cpu().numpy() for t in (mask_1HW, probability_1HW)]
    return np.concatenate([photo, *(np.repeat(gray[..., None], 3, 2) for gray in grays)], 1)
