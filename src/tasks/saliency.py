"""Salient-object segmentation as a LightningModule."""

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from src.losses import DeepSupervision
from src.metrics import SaliencyMetrics
from src.models import build_net
from src.preprocess import Preprocess


class SaliencyTask(pl.LightningModule):
    """Trains a net that returns logits `[fused, side1, ...]` on uint8 images and masks in 0..1.

    Args:
        model: the net's config, kept in every checkpoint so that a checkpoint alone rebuilds its net.
        size: the side that the net is used at after training, kept likewise.
        init: fills the net before training.
        loss: maps (logits, mask) to (total, named terms).
        optimizer: called with the parameters.
        scheduler: called with the optimizer, stepped with it; None keeps the learning rate constant.
        channels_last: the memory layout of images and weights; the numbers stay the same to rounding.

    Logged each step: `train/loss`, `train/fused`, `train/side1`..`6`; each validation: `val/loss`,
    `val/fused`, `val/MAE`, `val/maxF`, `val/meanF`, `val/mIoU`, `val/IoU`.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        size: int = 320,
        init: Callable[[nn.Module], nn.Module] | None = None,
        loss: nn.Module | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        channels_last: bool = False,
    ):
        super().__init__()
        self.save_hyperparameters({"model": model, "size": size}, logger=False)
        self.net = build_net(model)
        if init is not None:
            init(self.net)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net.to(memory_format=self.memory_format)
        self.preprocess = Preprocess()
        self.loss = loss or DeepSupervision()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.metrics = SaliencyMetrics()
        self.validated_at: int | None = None

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        return self.net(self.preprocess(image_BCHW).contiguous(memory_format=self.memory_format))

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        total, terms = self.loss(self(batch["image"]), batch["mask"])
        self.log("train/loss", total)
        self.log("train/fused", terms["fused"], prog_bar=True)
        self.log_dict({f"train/{name}": term for name, term in terms.items() if name != "fused"})
        return total

    def validation_step(self, batch: dict, batch_idx: int) -> Tensor:
        logits = self(batch["image"])
        total, terms = self.loss(logits, batch["mask"])
        probability = logits[0].float().sigmoid()
        self.metrics.update(probability, batch["mask"])
        averages = {"val/loss": total, "val/fused": terms["fused"]}
        self.log_dict(averages, batch_size=len(probability), sync_dist=True)
        return probability

    def on_validation_epoch_end(self) -> None:
        scores = {f"val/{name}": value.float() for name, value in self.metrics.compute().items()}
        self.metrics.reset()
        self.validated_at = self.global_step
        self.log("val/maxF", scores.pop("val/maxF"), prog_bar=True)
        self.log_dict(scores)

    def configure_optimizers(self) -> dict:
        optimizer = self.optimizer(self.net.parameters())
        if self.scheduler is None:
            return {"optimizer": optimizer}
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"},
        }
