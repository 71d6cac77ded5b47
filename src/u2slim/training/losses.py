"""Training losses: how far a net's logits are from masks or class labels."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from u2slim.errors import UserError
from u2slim.models.resize import upsample
from u2slim.training.class_weights import KINDS, class_weights


class OutputsLoss(nn.Module):
    """Base of all losses: the weighted sum of one term per output of the net.

    Input: logits by the output's name (see `Net.outputs`; the answer comes first), and the mask or labels that they
    should match. Output: the total, and the unweighted terms by name.

    Args:
        weights: a weight for each output; None: all 1.
    """

    is_cross_entropy: bool = False  # whether each term is one, so that it can be compared with the masks' entropy
    of_classes: ClassVar[bool] = False  # whether it is for classes, not for masks
    weighing: str | None = None  # how the classes' weights are found on training images, where they are

    def __init__(self, weights: Sequence[float] | None = None):
        super().__init__()
        self.weights = None if weights is None else tuple(weights)

    def weights_of(self, outputs: Sequence[str]) -> tuple[float, ...]:
        """The weight of each output.

        Raises:
            UserError: the number of weights is not that of the outputs.
        """
        if self.weights is None:
            return (1.0,) * len(outputs)
        if len(self.weights) != len(outputs):
            raise UserError(f"loss.weights has {len(self.weights)} numbers; give {len(outputs)}: {', '.join(outputs)}.")
        return self.weights

    def check_classes(self, names: Sequence[str]) -> None:
        """Raise UserError where the loss is not one of the classes of these names."""

    def forward(self, logits: Mapping[str, Tensor], target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.weights_of(list(logits))
        terms = {name: self.term(output, target) for name, output in logits.items()}
        return sum(weight * term for weight, term in zip(weights, terms.values(), strict=True)), terms

    def term(self, logits: Tensor, target: Tensor) -> Tensor:
        """One output's loss."""
        raise NotImplementedError


class DeepSupervision(OutputsLoss):
    """Binary cross-entropy of each output; with all weights at 1 it is U2-Net's loss.

    Input: logits (B, 1, h, w) by name and the mask (B, 1, H, W) in 0..1. Smaller logits are enlarged to the mask's
    size.

    Args:
        weights: a weight for each output; None: all 1.
        positive: how many times as much a subject's pixel counts as another, for small subjects.
    """

    def __init__(self, weights: Sequence[float] | None = None, positive: float = 1):
        super().__init__(weights)
        if not positive > 0:
            raise UserError(f"loss.positive={positive}: give a factor above 0.")
        self.positive, self.is_cross_entropy = positive, positive == 1

    def term(self, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """One output's loss."""
        if self.positive != 1:
            logits = upsample(logits_B1HW.float(), mask_B1HW.shape[2:])
            factor = logits.new_tensor(self.positive)
            return F.binary_cross_entropy_with_logits(logits, mask_B1HW, pos_weight=factor)
        if logits_B1HW.shape == mask_B1HW.shape:
            return F.binary_cross_entropy_with_logits(logits_B1HW.float(), mask_B1HW)
        return _UpsampledBCE.apply(logits_B1HW.float(), mask_B1HW)


class _UpsampledBCE(torch.autograd.Function):
    """Mean binary cross-entropy of bilinearly upsampled logits, which saves memory: no upsampled tensor is kept."""

    @staticmethod
    def forward(ctx, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        size = mask_B1HW.shape[2:]
        large = F.interpolate(logits_B1HW, size=size, mode="bilinear", align_corners=False)
        loss = F.binary_cross_entropy_with_logits(large, mask_B1HW)
        if ctx.needs_input_grad[0]:
            grad = large.sigmoid_().sub_(mask_B1HW).div_(mask_B1HW.numel())
            shape = list(logits_B1HW.shape)
            grad = torch.ops.aten.upsample_bilinear2d_backward(grad, list(size), shape, False, None, None)
            ctx.save_for_backward(grad)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * grad, None


ICNET_WEIGHTS = (1.0, 0.4, 0.16)


class CascadeLoss(OutputsLoss):
    """ICNet's cascade label guidance: a cross-entropy for each output, at that output's size.

    Input: logits (B, classes, h, w) by name, and labels (B, H, W) int64. Labels are reduced to each output's size by
    nearest neighbour, as in the paper. Each term is the mean over the pixels that have a class, and 0 if none has.

    Args:
        weights: a weight for each output; nets with fewer outputs use the first ones. The default is ICNet's, for up
            to three outputs; for nets with more, as U2-Net and IS-Net, it means that all weights are 1.
        ignore: the label of pixels that have no class.
        class_weights: how much a pixel of each class counts; each term is then a weighted mean. None: all count the
            same. For `log` and `median`, `weigh` finds the numbers (see `u2slim.training.class_weights`).
    """

    of_classes = True

    def __init__(
        self,
        weights: Sequence[float] | None = ICNET_WEIGHTS,
        ignore: int = 255,
        class_weights: Sequence[float] | str | None = None,
    ):
        super().__init__(weights)
        self.ignore = ignore
        self.weighing = class_weights if isinstance(class_weights, str) else None
        if self.weighing and self.weighing not in KINDS:
            raise UserError(f"loss.class_weights={class_weights}: give {', '.join(KINDS)}, or a number for each class.")
        given = None if self.weighing or class_weights is None else [float(weight) for weight in class_weights]
        if given and not all(0 <= weight < math.inf for weight in given):
            raise UserError(f"loss.class_weights={given}: give numbers from 0 on.")
        self.register_buffer("class_weights", None if given is None else torch.tensor(given), persistent=False)

    def check_classes(self, names: Sequence[str]) -> None:
        if self.class_weights is None and self.weighing:
            raise UserError(
                f"loss.class_weights={self.weighing} is found on training images: call weigh() of the loss first."
            )
        if self.class_weights is not None and len(self.class_weights) != len(names):
            raise UserError(
                f"loss.class_weights has {len(self.class_weights)} numbers; give {len(names)}: {', '.join(names)}."
            )

    def weigh(self, pixels_NC: np.ndarray) -> None:
        """Compute the weights for `log` or `median` from the number of pixels of each class in each training image."""
        self.class_weights = torch.tensor(class_weights(self.weighing, pixels_NC))

    def weights_of(self, outputs: Sequence[str]) -> tuple[float, ...]:
        if self.weights is not None and len(self.weights) > len(outputs):
            return self.weights[: len(outputs)]
        if self.weights == ICNET_WEIGHTS and len(outputs) > len(ICNET_WEIGHTS):
            return (1.0,) * len(outputs)
        return super().weights_of(outputs)

    def term(self, logits_BCHW: Tensor, label_BHW: Tensor) -> Tensor:
        """One output's loss."""
        label = F.interpolate(label_BHW[:, None].float(), logits_BCHW.shape[2:], mode="nearest-exact")[:, 0].long()
        weight_C = self.class_weights
        total = F.cross_entropy(logits_BCHW.float(), label, weight_C, ignore_index=self.ignore, reduction="sum")
        known = label != self.ignore
        if weight_C is None:
            return total / known.sum().clamp(min=1)
        return total / weight_C[label[known]].sum().clamp(min=torch.finfo(torch.float32).tiny)


class HybridLoss(OutputsLoss):
    """For crisp edges: cross-entropy for pixels, SSIM for patches and IoU for the mask (BASNet: Qin et al., CVPR 2019).

    Each output's term is the plain sum of the three. SSIM is torchmetrics': a Gaussian window of 11 pixels with
    standard deviation 1.5; beyond the border the image is mirrored.
    """

    def term(self, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        logits = upsample(logits_B1HW.float(), mask_B1HW.shape[2:])
        probability = logits.sigmoid()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, mask_B1HW)
        return cross_entropy + 1 - ssim(probability, mask_B1HW, data_range=1.0) + soft_iou_loss(probability, mask_B1HW)


class BoundaryLoss(OutputsLoss):
    """Cross-entropy and IoU loss in which pixels near a mask's edge count more (the structure loss of F3Net, 2020).

    A pixel's weight is 1 + `gain` x |mask - its mean over a window of `window` pixels (odd)|. Both losses are weighted
    by it; the cross-entropy is divided by the sum of the weights in each image.
    """

    def __init__(self, weights: Sequence[float] | None = None, gain: float = 5, window: int = 31):
        super().__init__(weights)
        if window % 2 == 0 or window < 3:
            raise UserError(f"loss.window={window}: give an odd number of pixels, from 3 on.")
        self.gain, self.window = gain, window

    def term(self, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        logits = upsample(logits_B1HW.float(), mask_B1HW.shape[2:])
        around = F.avg_pool2d(mask_B1HW, self.window, stride=1, padding=self.window // 2)
        weight = 1 + self.gain * (around - mask_B1HW).abs()
        pixels = F.binary_cross_entropy_with_logits(logits, mask_B1HW, reduction="none")
        cross_entropy = (weight * pixels).sum((1, 2, 3)) / weight.sum((1, 2, 3))
        return cross_entropy.mean() + soft_iou_loss(logits.sigmoid(), mask_B1HW, weight)


class FocalLoss(OutputsLoss):
    """For small subjects: cross-entropy in which pixels that are already right count little (Lin et al., ICCV 2017).

    A pixel's cross-entropy is multiplied by (1 - p)^gamma, where p is the probability of the right answer, and by
    `alpha` for the subject's pixels, by 1 - `alpha` for the others.
    """

    def __init__(self, weights: Sequence[float] | None = None, gamma: float = 2, alpha: float = 0.25):
        super().__init__(weights)
        if gamma < 0 or not 0 < alpha < 1:
            raise UserError(f"loss.gamma={gamma}, loss.alpha={alpha}: give gamma from 0 on, and alpha between 0 and 1.")
        self.gamma, self.alpha = gamma, alpha

    def term(self, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        logits = upsample(logits_B1HW.float(), mask_B1HW.shape[2:])
        probability = logits.sigmoid()
        wrong = probability + mask_B1HW - 2 * probability * mask_B1HW
        share = self.alpha * mask_B1HW + (1 - self.alpha) * (1 - mask_B1HW)
        pixels = F.binary_cross_entropy_with_logits(logits, mask_B1HW, reduction="none")
        return (share * wrong**self.gamma * pixels).mean()


class TverskyLoss(OutputsLoss):
    """For small subjects: cross-entropy and 1 - Tversky index (Salehi et al., 2017), by which missed pixels count more.

    Each image's index is hits / (hits + `false` x false alarms + `missed` x misses), in pixels; one pixel is added to
    both sides of the fraction. With 1/2 and 1/2 it is Dice's.
    """

    def __init__(self, weights: Sequence[float] | None = None, false: float = 0.3, missed: float = 0.7):
        super().__init__(weights)
        if false < 0 or missed < 0 or false + missed == 0:
            raise UserError(f"loss.false={false}, loss.missed={missed}: give two numbers from 0 on, not both 0.")
        self.false, self.missed = false, missed

    def term(self, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        logits = upsample(logits_B1HW.float(), mask_B1HW.shape[2:])
        probability = logits.sigmoid()
        both = (probability * mask_B1HW).sum((1, 2, 3))
        false = (probability * (1 - mask_B1HW)).sum((1, 2, 3))
        missed = ((1 - probability) * mask_B1HW).sum((1, 2, 3))
        index = (both + 1) / (both + self.false * false + self.missed * missed + 1)
        return F.binary_cross_entropy_with_logits(logits, mask_B1HW) + (1 - index).mean()


class CrispLoss(OutputsLoss):
    """For crisp masks: IoU loss and mean absolute error, which reward clear decisions where cross-entropy rewards grey.

    Where a small net cannot know, cross-entropy is lowest at the probability of being right, a grey value; these two
    are lowest at the likelier side. But they teach nothing where the net is both sure and wrong, since their gradients
    vanish there: they are for nets that are already trained.
    """

    def term(self, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        probability = upsample(logits_B1HW.float(), mask_B1HW.shape[2:]).sigmoid()
        return soft_iou_loss(probability, mask_B1HW) + (probability - mask_B1HW).abs().mean()


def soft_iou_loss(probability_B1HW: Tensor, mask_B1HW: Tensor, weight_B1HW: Tensor | float = 1.0) -> Tensor:
    """1 - intersection over union of each image's probabilities and mask, averaged over images.

    One pixel is added to both, so that an empty mask has a loss too.
    """
    both = (probability_B1HW * mask_B1HW * weight_B1HW).sum((1, 2, 3))
    either = ((probability_B1HW + mask_B1HW) * weight_B1HW).sum((1, 2, 3)) - both
    return (1 - (both + 1) / (either + 1)).mean()
