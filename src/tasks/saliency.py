"""Salient-object segmentation as a LightningModule."""

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from src.distill import Distillation
from src.errors import UserError
from src.losses import DeepSupervision
from src.metrics import SaliencyMetrics
from src.models import build_net
from src.models.recompute import recompute_activations
from src.preprocess import Preprocess
from src.steps import will_be_logged


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
        compiled: run the net through torch.compile.
        recompute: activation checkpointing, less memory for a second forward pass.
        freeze_batchnorm: BatchNorm normalises with its running statistics, and leaves them as they are, in training
            too; its weights and biases train.
        distill: a teacher whose outputs are learnt, too.

    Logged every `trainer.log_every_n_steps` steps, as the mean over the global batch: `train/loss`, what is minimised,
    and of images with masks `train/fused`, `train/side1`..`6`; with a teacher `train/distill` and, where features are
    learnt, `train/features`; each validation: `val/loss`, `val/fused`, `val/MAE`, `val/maxF`, `val/meanF`, `val/mIoU`,
    `val/IoU`.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        size: int = 320,
        init: Callable[[nn.Module], nn.Module] | None = None,
        loss: nn.Module | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        channels_last: bool = True,
        compiled: bool = False,
        recompute: bool = False,
        freeze_batchnorm: bool = False,
        distill: Distillation | None = None,
    ):
        super().__init__()
        self.save_hyperparameters({"model": model, "size": size}, logger=False)
        self.net = build_net(model)
        if init is not None:
            init(self.net)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net.to(memory_format=self.memory_format)
        if recompute:
            recompute_activations(self.net.stages)
        if compiled:
            self.net.compile()
        self.distill = distill
        if distill is not None:
            distill.check(self.net, compiled)
        self.preprocess = Preprocess()
        self.loss = loss or DeepSupervision()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.freeze_batchnorm = freeze_batchnorm
        self.metrics = SaliencyMetrics()
        # Not Lightning's own averages, which are wrong where processes see different numbers of images.
        self.val_losses = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in ("loss", "fused")})
        self.validated_at: int | None = None

    def forward(self, image_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        return self.net(self.normalised(image_BCHW), upsampled)

    def normalised(self, image_BCHW: Tensor) -> Tensor:
        """What the net takes."""
        return self.preprocess(image_BCHW).contiguous(memory_format=self.memory_format)

    def losses(self, image_BCHW: Tensor, mask_B1HW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and its terms by name."""
        return self.loss(self(image_BCHW, upsampled=False), mask_B1HW)

    def on_fit_start(self) -> None:
        if self.distill is not None:
            self.distill.to(self.device, self.memory_format)

    def on_train_start(self) -> None:
        # Validation brings every module back to the mode it was in.
        for module in self.net.modules():
            if self.freeze_batchnorm and isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                module.eval()

    def training_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        """The total and its parts for callbacks: `fused` is of the labelled images, whose share is `labelled`."""
        if self.distill is None:
            total, terms, share = self.supervised(self(batch["image"], upsampled=False), batch)
            taught = {}
        else:
            logits, taught = self.distill(self.net, self.normalised(batch["image"]), self.loss.weights)
            total, terms, share = self.supervised(logits, batch, self.distill.labels)
            total = self.distill.total(total, taught)
        if will_be_logged(self.trainer):
            self._log_losses({"loss": total} | taught, terms, share)
        # Callbacks get `loss` divided by the number of accumulated batches.
        return {"loss": total, "total": total.detach(), "fused": terms["fused"].detach(), "labelled": share}

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
            total, terms = self.loss(logits, mask_B1HW)
        return weight * share * total, terms, share

    def _log_losses(self, means: dict[str, Tensor], terms: dict[str, Tensor], share: float) -> None:
        """Logs means over the global batch, and terms, each a mean over the share of it that is labelled."""
        values = [*means.values(), *(share * term for term in terms.values())]
        values = torch.stack([*values, values[0].new_tensor(share)]).detach()
        *values, share = self.trainer.strategy.reduce(values, reduce_op="mean").tolist()
        logged = dict(zip((*means, *terms), values, strict=True))
        if share:
            logged |= {name: logged[name] / share for name in terms}
        self.log_dict({f"train/{name}": logged[name] for name in (*means, *(terms if share else ()))})

    def validation_step(self, batch: dict, batch_idx: int) -> Tensor:
        logits = self(batch["image"], upsampled=False)
        total, terms = self.loss(logits, batch["mask"])
        probability = logits[0].float().sigmoid()
        if not probability.isfinite().all():
            raise UserError(
                f"The net's masks are not finite at step {self.global_step}, on {', '.join(batch['name'])}: training "
                "has driven its weights off. Lower optimizer.lr, warm up (scheduler=cosine), or use float32."
            )
        self.metrics.update(probability, batch["mask"])
        for name, value in {"loss": total, "fused": terms["fused"]}.items():
            # One number an image: torchmetrics 1.9 forgets weights where it lets NaN through.
            self.val_losses[name].update(value.expand(len(probability)))
        return probability

    def on_validation_epoch_end(self) -> None:
        scores = self.metrics.compute() | {name: metric.compute() for name, metric in self.val_losses.items()}
        for metric in (self.metrics, *self.val_losses.values()):
            metric.reset()
        self.validated_at = self.global_step
        for name, value in scores.items():
            # The same in all processes by now; without sync_dist Lightning would warn that it might not be.
            self.log(f"val/{name}", value.float(), sync_dist=True)

    @property
    def learning_rate(self) -> float:
        """Where Lightning's learning-rate finder looks for it."""
        return self.optimizer(self.net.parameters()).defaults["lr"]

    def configure_optimizers(self) -> dict:
        optimizer = self.optimizer(self.net.parameters())
        if self.scheduler is None:
            return {"optimizer": optimizer}
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"},
        }
