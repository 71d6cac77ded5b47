"""What the optimizer works with, in the logs."""

import pytorch_lightning as pl
import torch

from u2slim.training.steps import will_be_logged


class OptimizerCurves(pl.Callback):
    """Logs `train/lr` and `train/grad_norm` as often as the losses.

    The learning rate is that of the first parameter group, for the step about to be taken; the norm is the 2-norm of
    all gradients together, before any clipping, and in mixed precision of the unscaled ones.
    """

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if not will_be_logged(trainer):
            return
        groups = optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # Lightning has unscaled them by now, except where a fused optimizer does so inside its step.
        # upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/15501 (closed: it stays so);
        # drop when the gradients are unscaled here for fused optimizers, too
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            norm = norm / scaler.get_scale()
        pl_module.log("train/lr", groups[0]["lr"])
        pl_module.log("train/grad_norm", norm)
