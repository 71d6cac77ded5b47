"""Salient-object segmentation as a LightningModule."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.models.resize import size_of, upsample
from u2slim.tasks.base import SegmentationTask
from u2slim.training.distillation import Distillation
from u2slim.training.losses import DeepSupervision, OutputsLoss
from u2slim.training.metrics import SaliencyMetrics
from u2slim.training.steps import will_be_logged


class SaliencyTask(SegmentationTask):
    """Trains a net that makes masks on uint8 images and masks in 0..1.

    Args:
        model, size, init, optimizer, options: as `SegmentationTask` says.
        loss: as `SegmentationTask` says; None: `DeepSupervision`.
        distill: a teacher whose outputs are learnt, too.

    Logged in training: `train/loss`, and of images with masks a term for each output, of U2-Net `train/fused`,
    `train/side1`..`6`; with a teacher `train/distill` and, where features are learnt, `train/features`; each
    validation: `val/loss`, the answer's term (`val/fused`), `val/MAE`, `val/maxF`, `val/meanF`, `val/mIoU`, `val/IoU`.
    """

    shown = ("val/maxF",)

    def __init__(
        self,
        model: Mapping[str, Any],
        size: int | Sequence[int] = 320,
        init: Callable[[nn.Module], nn.Module] | None = None,
        loss: OutputsLoss | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        distill: Distillation | None = None,
        **options: Any,
    ):
        if loss is not None and loss.of_classes:
            raise UserError(
                "loss=cascade is of classes; task=saliency learns masks by loss=deep_supervision and others."
            )
        super().__init__(model, size, init, loss or DeepSupervision(), optimizer, scheduler, **options)
        if self.net.classes:
            raise UserError(f"{self.net.name} tells classes apart: train it with task=semantic, on data with classes.")
        self.distill = distill
        if distill is not None:
            distill.check(self.net, options.get("compiled", False))
        self.metrics = SaliencyMetrics()

    def on_fit_start(self) -> None:
        if self.distill is not None:
            self.distill.to(self.device, self.memory_format)

    def training_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        """The total and its parts for callbacks: the answer's term is of the labelled images' share."""
        if self.distill is None:
            total, terms, share = self.supervised(self(batch["image"], upsampled=False), batch)
            taught = {}
        else:
            logits, taught = self.distill(
                self.net, self.normalised(batch["image"]), self.loss.weights_of(self.net.outputs)
            )
            total, terms, share = self.supervised(logits, batch, self.distill.labels)
            total = self.distill.total(total, taught)
        if will_be_logged(self.trainer):
            self._log_losses({"loss": total} | taught, terms, share)
        return self.for_callbacks(total, terms, share)

    def supervised(self, logits: list[Tensor], batch: dict, weight: float = 1.0) -> tuple[Tensor, dict, float]:
        """The loss against the masks that there are: the total, its terms by name, and those images' share.

        The terms are means over the labelled images; the total is multiplied by their share and `weight`, so that each
        image counts as much in a batch as where all are labelled. Without any, the terms mean nothing.
        """
        mask_B1HW = batch["mask"]
        known = batch.get("labelled") or [True] * len(mask_B1HW)
        rows = [row for row, is_known in enumerate(known) if is_known]
        share = len(rows) / len(known)
        if 0 < share < 1:  # chosen one by one: an index would have to be copied to the device
            *logits, mask_B1HW = (torch.stack([each[row] for row in rows]) for each in (*logits, mask_B1HW))
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight * share > 0):
            total, terms = self.loss(self.named(logits), mask_B1HW)
        return weight * share * total, terms, share

    def score(self, logits: list[Tensor], batch: dict) -> Tensor:
        probability = upsample(logits[0].float(), size_of(batch["mask"])).sigmoid()
        self.metrics.update(probability, batch["mask"])
        return probability

    def scores(self) -> dict[str, Tensor]:
        scores = self.metrics.compute()
        self.metrics.reset()
        return scores
