"""Training losses on the nets' logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from u2slim.errors import UserError
from u2slim.models.resize import upsample

OUTPUTS = ("fused", "side1", "side2", "side3", "side4", "side5", "side6")


class DeepSupervision(nn.Module):
    """The weighted sum of one term per output: binary cross-entropy, with which all weights at 1 are U2-Net's loss.

    Input: logits `[fused, side1, ..., side6]`, each (B, 1, h, w) at most as large as the mask (B, 1, H, W) in 0..1,
    and compared with it at the mask's size. Output: the total, and the unweighted terms by name.
    """

    is_cross_entropy = True  # each term, so that it can be held against the entropy of the masks

    def __init__(self, weights: Sequence[float] = (1.0,) * len(OUTPUTS)):
        super().__init__()
        if len(weights) != len(OUTPUTS):
            raise UserError(f"loss.weights has {len(weights)} numbers; give {len(OUTPUTS)}: {', '.join(OUTPUTS)}.")
        self.weights = tuple(weights)

    def forward(self, logits: Sequence[Tensor], mask_B1HW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        terms = {name: self.term(output, mask_B1HW) for name, output in zip(OUTPUTS, logits, strict=True)}
        total = sum(weight * term for weight, term in zip(self.weights, terms.values(), strict=True))
        return total, terms

    def term(self, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """One output's loss."""
        if logits_B1HW.shape == mask_B1HW.shape:
            return F.binary_cross_entropy_with_logits(logits_B1HW.float(), mask_B1HW)
        return _UpsampledBCE.apply(logits_B1HW.float(), mask_B1HW)


class _UpsampledBCE(torch.autograd.Function):
    """Mean binary cross-entropy of bilinearly upsampled logits, of which nothing larger than the logits is kept."""

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


class CascadeLoss(nn.Module):
    """ICNet's cascade label guidance: the weighted sum of one cross-entropy per output, at that output's size.

    Input: logits `[main, auxiliary, ...]`, each (B, classes, h, w), and labels (B, H, W) int64, which go down to each
    output's size without new values, as the paper has it. Nets with fewer outputs use the first weights. Output: the
    total, and the unweighted terms by name, `main`, `auxiliary1`, `auxiliary2`; each is a mean over the pixels that
    have a class, and 0 where none has.
    """

    def __init__(self, weights: Sequence[float] = (1.0, 0.4, 0.16), ignore: int = 255):
        super().__init__()
        self.weights, self.ignore = tuple(weights), ignore

    def forward(self, logits: Sequence[Tensor], label_BHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if len(logits) > len(self.weights):
            raise UserError(
                f"loss.weights has {len(self.weights)} numbers; give {len(logits)}, the main output's first."
            )
        names = ("main", *(f"auxiliary{n}" for n in range(1, len(logits))))
        terms = {name: self.term(output, label_BHW) for name, output in zip(names, logits, strict=True)}
        total = sum(weight * term for weight, term in zip(self.weights, terms.values(), strict=False))
        return total, terms

    def term(self, logits_BCHW: Tensor, label_BHW: Tensor) -> Tensor:
        """One output's loss."""
        label = F.interpolate(label_BHW[:, None].float(), logits_BCHW.shape[2:], mode="nearest-exact")[:, 0].long()
        total = F.cross_entropy(logits_BCHW.float(), label, ignore_index=self.ignore, reduction="sum")
        return total / (label != self.ignore).sum().clamp(min=1)


class HybridLoss(DeepSupervision):
    """BASNet's hybrid of three (Qin et al., CVPR 2019): cross-entropy for pixels, SSIM for patches, IoU for the map.

    Each output's term is their plain sum. SSIM is that of torchmetrics: a Gaussian window of 11 pixels, deviation
    1.5, beyond the border the mirrored image.
    """

    is_cross_entropy = False

    def term(self, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        logits = upsample(logits_B1HW.float(), mask_B1HW.shape[2:])
        probability = logits.sigmoid()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, mask_B1HW)
        return cross_entropy + 1 - ssim(probability, mask_B1HW, data_range=1.0) + soft_iou_loss(probability, mask_B1HW)


class BoundaryLoss(DeepSupervision):
    """Cross-entropy and IoU loss in which pixels near a mask's edge count more (the structure loss of F3Net, 2020).

    A pixel's weight is 1 + `gain` times the difference between the mask and its mean over a window of `window`
    pixels (odd); both losses are weighted, the cross-entropy by its weights' mean in each image.
    """

    is_cross_entropy = False

    def __init__(self, weights: Sequence[float] = (1.0,) * len(OUTPUTS), gain: float = 5, window: int = 31):
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


class CrispLoss(DeepSupervision):
    """IoU loss and mean absolute error: a net that is not sure does best to choose, not to hedge.

    Cross-entropy asks for the probability of being right, grey where a small net cannot know; these two ask for the
    likelier side. Their gradients vanish where the net is sure, and wrong: for nets that know something already.
    """

    is_cross_entropy = False

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
