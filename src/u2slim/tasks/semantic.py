"""Semantic segmentation as a LightningModule."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from u2slim.data.labels import IGNORE
from u2slim.errors import UserError
from u2slim.evaluation.confusion import scores
from u2slim.models.resize import upsample
from u2slim.tasks.base import SegmentationTask
from u2slim.training.losses import CascadeLoss, OutputsLoss

log = logging.getLogger(__name__)


class SemanticTask(SegmentationTask):
    """Trains a net that tells classes apart on uint8 images and labels (B, H, W) int64.

    Args:
        model, size, init, optimizer, options: as `SegmentationTask` says.
        classes: the data's `names` and `palette` (RGB, 0..255), kept in every checkpoint.
        loss: as `SegmentationTask` says; None: `CascadeLoss`.

    Logged in training: `train/loss` and each output's loss by its name, as `train/main` and `train/auxiliary1` of
    ICNet; each validation, over all pixels that have a class: `val/loss`, `val/` and the name of the first output
    (means over batches), `val/mIoU`, `val/accuracy` and `val/IoU/CLASS` of each class that occurs. `confusion` is the
    matrix (true, predicted) that these come from.
    """

    shown = ("val/mIoU",)

    def __init__(
        self,
        model: Mapping[str, Any],
        size: int | list[int],
        classes: Mapping[str, list],
        init: Callable[[nn.Module], nn.Module] | None = None,
        loss: OutputsLoss | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        **options: Any,
    ):
        if "classes" not in inspect.signature(get_class(model["_target_"])).parameters:
            raise UserError(
                "task=semantic needs a net that takes classes: model=icnet, pspnet, fcn, parsenet, isnet, or a U2-Net, "
                "e.g. model=dwsep."
            )
        if model.get("classes") != len(classes["names"]):
            raise UserError(
                f"model.classes={model.get('classes')}, but the data have {len(classes['names'])}: leave model.classes "
                "to data.classes."
            )
        if loss is not None and not loss.of_classes:
            raise UserError("This loss is of masks; task=semantic learns classes by loss=cascade.")
        loss = loss or CascadeLoss()
        loss.check_classes(classes["names"])
        kept = {"classes": dict(classes)}
        super().__init__(model, size, init, loss, optimizer, scheduler, kept=kept, **options)
        self.classes = kept["classes"]
        self.matrix = MulticlassConfusionMatrix(len(classes["names"]), ignore_index=IGNORE, validate_args=False)
        self.confusion: Tensor | None = None

    def on_fit_start(self) -> None:
        if self.loss.weighing:
            weights = zip(self.classes["names"], self.loss.class_weights.tolist(), strict=True)
            log.info(
                "class weights (%s): %s",
                self.loss.weighing,
                ", ".join(f"{name} {weight:.3g}" for name, weight in weights),
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.loss.weighing:
            checkpoint["class_weights"] = self.loss.class_weights.tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint.get("class_weights")
        if kept and self.loss.weighing:  # the data may have changed since
            self.loss.class_weights = self.loss.class_weights.new_tensor(kept)

    def score(self, logits: list[Tensor], batch: dict) -> Tensor:
        predicted_BHW = upsample(logits[0].float(), batch["mask"].shape[1:]).argmax(1)
        self.matrix.update(predicted_BHW, batch["mask"])
        return predicted_BHW

    def scores(self) -> dict[str, Tensor]:
        self.confusion = self.matrix.compute()
        self.matrix.reset()
        found = scores(self.confusion.cpu().numpy(), self.classes["names"])
        return {name: torch.tensor(value, device=self.device) for name, value in found.items()}
