"""Learning from the outputs of a trained net, the teacher, which needs no masks."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from u2slim.errors import UserError
from u2slim.models import Net
from u2slim.models.hooks import outputs_of
from u2slim.models.memory_format import to_memory_format
from u2slim.models.u2net import WIDTHS
from u2slim.zoo import open_net
from u2slim.zoo.records import u2net_of

log = logging.getLogger(__name__)


class Distillation:
    """A frozen teacher and what a student's outputs cost against it.

    Not a module: so the teacher is in no checkpoint, no optimizer, no average of weights and no gradient's reduction.

    Args:
        teacher: any name or file of a net that `open_net` takes; None: the published U2-Net of `width`.
        width: of a published teacher; a checkpoint brings its own.
        weight: of the logit term, see `logit_loss`.
        temperature: by which the logit term divides both nets' logits.
        labels: of the loss against masks.
        features: of the feature term, see `feature_loss`; 0 spares its time and memory.

    Raises:
        UserError: the file is not there or holds no such net, a weight is negative, or the temperature is not positive.
    """

    def __init__(
        self,
        teacher: str | None = None,
        width: str = "full",
        weight: float = 1.0,
        labels: float = 1.0,
        features: float = 0.0,
        temperature: float = 1.0,
    ):
        self.weight, self.labels, self.features = weight, labels, features
        self.temperature = temperature
        for name, value in {"weight": weight, "labels": labels, "features": features}.items():
            if not value >= 0:
                raise UserError(f"task.distill.{name}={value}: give a weight from 0 on.")
        if width not in WIDTHS:
            raise UserError(f"task.distill.width={width} is not known; choose one of: {', '.join(WIDTHS)}.")
        if not temperature > 0:
            raise UserError(f"task.distill.temperature={temperature}: give a number above 0.")
        handle = open_net(teacher or u2net_of(width))
        with torch.random.fork_rng(devices=[]):  # the student begins as it would without a teacher
            self.teacher = handle.net().requires_grad_(False)
        # Of nets whose first output is one head's alone, ONNX files lack the others, which then are zeros.
        if not all(next(head.parameters()).any() for head in self.teacher.heads):
            raise UserError(f"{handle.name} lacks some of its outputs and cannot teach them: name a net that has all.")
        log.info("also learning from %s: %s", handle.name, self.teacher.name)

    def __deepcopy__(self, memo: dict) -> "Distillation":
        return self  # a copy of the training task, as for averaged weights, learns from the same teacher

    def check(self, student: Net, compiled: bool) -> None:
        """Raise UserError where the teacher cannot teach this student, or the feature term cannot be had of it."""
        seen = [replace(net.preprocess, size=0) for net in (student, self.teacher)]
        if student.outputs != self.teacher.outputs or seen[0] != seen[1]:
            raise UserError(
                f"{self.teacher.name} cannot teach {student.name}, which has other outputs or another normalisation: "
                "name a net of the student's structure as task.distill.teacher, for IS-Net isnet-general-use."
            )
        if self.features and compiled:
            raise UserError("task.distill.features reads the net's stages, which task.compiled=true hides; drop one.")
        if self.features and _shapes(student) != _shapes(self.teacher):
            raise UserError(
                f"task.distill.features compares stages, whose shapes differ in {self.teacher.name}, the teacher, and "
                f"in {student.name}; use task.distill.features=0, or a teacher of the student's width."
            )

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        """Bring the teacher to where and how the student computes."""
        to_memory_format(self.teacher.to(device), memory_format)

    def __call__(
        self, student: nn.Module, image_BCHW: Tensor, weights: Sequence[float]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The student's logits at their own sizes, and the unweighted terms: `distill` and, unless off, `features`.

        Args:
            student: a net that returns as many logits as the teacher.
            image_BCHW: what both nets see: normalised RGB.
            weights: of the outputs in the logit term.
        """
        watched = bool(self.features)
        with outputs_of(student.stages if watched else ()) as own:
            logits = student(image_BCHW, upsampled=False)
        with torch.no_grad(), outputs_of(self.teacher.stages if watched else ()) as wanted:
            targets = self.teacher(image_BCHW, upsampled=False)
        terms = {"distill": logit_loss(logits, targets, weights, self.temperature)}
        if watched:
            terms["features"] = feature_loss(list(own.values()), list(wanted.values()))
        return logits, terms

    def total(self, supervised: Tensor, terms: dict[str, Tensor]) -> Tensor:
        """What is minimised, from the weighted loss against masks and the terms."""
        total = supervised + self.weight * terms["distill"]
        return total + self.features * terms["features"] if self.features else total


def logit_loss(
    logits: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0
) -> Tensor:
    """Binary cross-entropy of logits against the sigmoid of the teacher's, pixels' mean, summed over the outputs.

    Both are divided by the temperature T, and the sum is multiplied by T^2, so that the gradient's size hardly depends
    on it (Hinton et al., 2015). Each output is compared at the size (B, 1, h, w) at which both nets make it. The least
    possible value is not 0 but the entropy of the teacher's probabilities.
    """
    t = temperature
    pairs = [(w, x.float() / t, y.float() / t) for w, x, y in zip(weights, logits, targets, strict=True)]
    return t**2 * sum(w * F.binary_cross_entropy_with_logits(x, y.sigmoid()) for w, x, y in pairs)


def feature_loss(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean squared error divided by the target's mean square, averaged over images and stages (B, C, h, w).

    Each image has its own divisor, so that the mean does not depend on how a batch is divided among processes.
    """
    pairs = [(x.float(), t.float()) for x, t in zip(features, targets, strict=True)]
    ratios = [vector_norm(x - t, dim=(1, 2, 3)) / vector_norm(t, dim=(1, 2, 3)).clamp(min=1e-6) for x, t in pairs]
    return torch.stack(ratios).square().mean()


def _shapes(net: Net) -> list[torch.Size]:
    """Of what each stage returns for one image, without computing it."""
    net = copy.deepcopy(net).to("meta")
    with torch.no_grad(), outputs_of(net.stages) as found:
        net(torch.empty(1, 3, 64, 64, device="meta"))
    return [output.shape for output in found.values()]
