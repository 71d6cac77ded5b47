"""What the tasks share: a net, its loss and its optimizer in a LightningModule."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from u2slim.errors import UserError
from u2slim.images.preprocess import Preprocess
from u2slim.models import build_net
from u2slim.models.memory_format import to_memory_format
from u2slim.models.normalise import Normalise
from u2slim.models.recompute import recompute_activations
from u2slim.training.losses import OutputsLoss
from u2slim.training.parts import freeze as freeze_parts
from u2slim.training.parts import modules_of, parameter_groups
from u2slim.training.steps import will_be_logged


class SegmentationTask(pl.LightningModule):
    """Trains a net that returns a list of logits, the main output's first, on uint8 images.

    Args:
        model: the net's config, kept in every checkpoint so that a checkpoint alone rebuilds its net.
        size: what the net is used at after training, a square's side or [height, width], kept likewise.
        init: fills the net before training.
        loss: maps (logits by name, masks) to (total, terms by name).
        optimizer: called with the parameters.
        scheduler: called with the optimizer, stepped with it; None keeps the learning rate constant.
        channels_last: the memory layout of images and weights; the numbers stay the same to rounding.
        compiled: run the net through torch.compile.
        recompute: activation checkpointing, less memory for a second forward pass.
        freeze_batchnorm: BatchNorm normalises with its running statistics, and leaves them as they are, in training
            too; its weights and biases train.
        freeze: parts of the net that stay as they are, as `encoder`; see `training.parts`.
        rates: factors of the learning rate for parts of the net.
        kept: what checkpoints keep of a task besides.

    A task says how its outputs are scored. Logged every `trainer.log_every_n_steps` steps, as the mean over the global
    batch: `train/loss`, what is minimised, and the loss's terms by the net's outputs; each validation: `val/loss`,
    `val/` and the name of the first output, and the scores.
    """

    shown: ClassVar[tuple[str, ...]]  # the scores that the progress bar shows

    def __init__(
        self,
        model: Mapping[str, Any],
        size: int | Sequence[int],
        init: Callable[[nn.Module], nn.Module] | None,
        loss: OutputsLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        channels_last: bool = True,
        compiled: bool = False,
        recompute: bool = False,
        freeze_batchnorm: bool = False,
        freeze: Sequence[str] = (),
        rates: Mapping[str, float] | None = None,
        kept: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.save_hyperparameters({"model": model, "size": size} | dict(kept or {}), logger=False)
        self.net = build_net(model)
        if init is not None:
            init(self.net)
        self.hparams.update(self.net.own_preprocess())
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        to_memory_format(self.net, self.memory_format)
        if recompute:
            recompute_activations(self.net.stages)
        if compiled:
            self.net.compile()
        self.preprocess = Normalise(self.net.preprocess)
        self.loss = loss
        loss.weights_of(self.net.outputs)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.freeze_batchnorm = freeze_batchnorm
        freeze_parts(self.net, freeze)
        self.frozen = freeze
        self.rates = dict(rates or {})
        parameter_groups(self.net, self.rates, 1.0)  # a wrong part is said before the first step
        # Not Lightning's own averages, which are wrong where processes see different numbers of images.
        # upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/21859; drop when it is closed
        self.val_losses = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in ("loss", self.answer)})
        self.validated_at: int | None = None

    @property
    def answer(self) -> str:
        """The name of the net's first output, the one that is used after training."""
        return self.net.outputs[0]

    def score(self, logits: list[Tensor], batch: dict) -> Tensor:
        """Take the scores of a validation batch; what pictures show of its predictions."""
        raise NotImplementedError

    def scores(self) -> dict[str, Tensor]:
        """Of all validation images of all processes; called once by each of them, and begins anew."""
        raise NotImplementedError

    def forward(self, image_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        return self.net(self.normalised(image_BCHW), upsampled)

    def normalised(self, image_BCHW: Tensor) -> Tensor:
        """What the net takes."""
        return self.preprocess(image_BCHW).contiguous(memory_format=self.memory_format)

    def losses(self, image_BCHW: Tensor, mask_B1HW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and its terms by name."""
        return self.loss(self.named(self(image_BCHW, upsampled=False)), mask_B1HW)

    def named(self, logits: Sequence[Tensor]) -> dict[str, Tensor]:
        """The net's outputs by name."""
        return dict(zip(self.net.outputs, logits, strict=True))

    def on_train_start(self) -> None:
        # Validation brings every module back to the mode it was in.
        # Looked for only now, since trainer.sync_batchnorm has put others in their places.
        still = [each for part in self.frozen for each in modules_of(self.net, part, "task.freeze")]
        for module in [self.net] if self.freeze_batchnorm else still:
            for norm in module.modules():
                if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
                    norm.eval()

    def training_step(self, batch: dict, batch_idx: int) -> dict[str, Tensor]:
        """The total and the term of the net's answer, for callbacks."""
        total, terms = self.losses(batch["image"], batch["mask"])
        if will_be_logged(self.trainer):
            self._log_losses({"loss": total}, terms)
        return self.for_callbacks(total, terms)

    def for_callbacks(self, total: Tensor, terms: dict[str, Tensor], share: float = 1.0) -> dict[str, Tensor]:
        """What a training step returns; `share` of its images have the masks that the terms are of."""
        # Callbacks get `loss` divided by the number of accumulated batches.
        return {"loss": total, "total": total.detach(), "answer": terms[self.answer].detach(), "labelled": share}

    def _log_losses(self, means: dict[str, Tensor], terms: dict[str, Tensor], share: float = 1.0) -> None:
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
        total, terms = self.loss(self.named(logits), batch["mask"])
        if logits[0].isnan().any():
            raise UserError(
                f"The net's masks are not finite at step {self.global_step}, on {', '.join(batch['name'])}: its "
                "weights have diverged. Lower optimizer.lr, warm up (scheduler=cosine), or use float32."
            )
        shown = self.score(logits, batch)
        for name, value in {"loss": total, self.answer: terms[self.answer]}.items():
            # One number an image: torchmetrics 1.9 forgets weights where it lets NaN through.
            # upstream: https://github.com/Lightning-AI/torchmetrics/issues/3434; drop when it is closed
            self.val_losses[name].update(value.expand(len(shown)))
        return shown

    def on_validation_epoch_end(self) -> None:
        scores = self.scores() | {name: metric.compute() for name, metric in self.val_losses.items()}
        for metric in self.val_losses.values():
            metric.reset()
        self.validated_at = self.global_step
        for name, value in scores.items():
            # The same in all processes by now; without sync_dist Lightning would warn that it might not be.
            self.log(f"val/{name}", value.float(), sync_dist=True)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if entries := checkpoint["hyper_parameters"].get("preprocess"):
            self.hparams["preprocess"] = entries
            self.net.preprocess = Preprocess.from_metadata(entries, self.hparams["size"])
            self.preprocess = Normalise(self.net.preprocess).to(self.device)

    @property
    def learning_rate(self) -> float:
        """Where Lightning's learning-rate finder looks for it."""
        return self.optimizer(self.net.parameters()).defaults["lr"]

    def configure_optimizers(self) -> dict:
        optimizer = self.optimizer(parameter_groups(self.net, self.rates, self.learning_rate))
        if self.scheduler is None:
            return {"optimizer": optimizer}
        scheduler = self.scheduler(optimizer)
        if len({f"{group['lr'] / group.get('rate', 1):.6g}" for group in optimizer.param_groups}) > 1:
            raise UserError(
                "scheduler=one_cycle has one learning rate for all parts: leave out task.rates, or use cosine."
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
