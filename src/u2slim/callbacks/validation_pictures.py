"""Pictures of what the net does, after each validation."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from u2slim.images.colours import overlay
from u2slim.images.write import write_image

CLASSES = {0: "background", 1: "salient"}


class ValidationPictures(pl.Callback):
    """Writes `step_N.png` with rows of image, mask and prediction; classes are laid over the image in their colours.

    Where W&B is on it gets that picture as `val/pictures`, and as `val/masks` each image with the mask and the
    prediction, both cut at one half unless they are classes, to be laid over it.

    Args:
        folder: where the pictures go.
        images: how many rows, always of the same validation images.
    """

    def __init__(self, folder: str, images: int = 8):
        self.folder, self.images = Path(folder), images
        self._samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if not trainer.is_global_zero:
            return
        for image, mask, predicted in zip(batch["image"], batch["mask"], outputs, strict=True):
            if len(self._samples) < self.images:
                photo = image.permute(1, 2, 0).cpu().numpy()
                self._samples.append((photo, _as_bytes(mask), _as_bytes(predicted)))

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        if not self._samples:
            return
        samples, self._samples = self._samples, []
        classes = getattr(pl_module, "classes", None)
        grid = np.concatenate([np.concatenate(_panels(*sample, classes), 1) for sample in samples])
        write_image(self.folder / f"step_{trainer.global_step:06d}.png", grid)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                step = step_of_scores(trainer)
                logger.log_image("val/pictures", [grid], step=step)
                images, *masks = zip(*samples, strict=True)
                masks = [_overlay(*pair, classes) for pair in zip(*masks, strict=True)]
                logger.log_image("val/masks", list(images), step=step, masks=masks)


def step_of_scores(trainer: pl.Trainer) -> int:
    """The step under which Lightning logs the scores of this validation: while it trains the first step is 0."""
    return max(0, trainer.global_step - (trainer.state.fn == "fit"))


def _as_bytes(values: torch.Tensor) -> np.ndarray:
    """Classes (H, W) as they are, masks (1, H, W) in 0..1 as 0..255."""
    values = (values[0].detach().float() * 255).round() if values.is_floating_point() else values
    return values.byte().cpu().numpy()


def _panels(photo: np.ndarray, mask: np.ndarray, predicted: np.ndarray, classes: dict | None) -> list[np.ndarray]:
    """Three RGB pictures of one size."""
    if classes:
        return [photo, *(overlay(photo, values, classes["palette"]) for values in (mask, predicted))]
    return [photo, *(np.repeat(values[..., None], 3, 2) for values in (mask, predicted))]


def _overlay(mask: np.ndarray, predicted: np.ndarray, classes: dict | None) -> dict:
    """A mask and its prediction as W&B takes them."""
    labels = dict(enumerate(classes["names"])) if classes else CLASSES
    return {
        name: {"mask_data": values if classes else (values >= 128).astype(np.uint8), "class_labels": labels}
        for name, values in (("ground_truth", mask), ("prediction", predicted))
    }
