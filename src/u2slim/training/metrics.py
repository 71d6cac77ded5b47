"""Validation metrics that stay on the device, in constant memory, and agree with `pysodmetrics`."""

import torch
from torch import Tensor
from torchmetrics import Metric

from u2slim.evaluation.results import BETA2

LEVELS = 256


class SaliencyMetrics(Metric):
    """MAE, maxF, meanF, mIoU (the image's curves averaged over images, as `pysodmetrics`) and IoU (cut at 1/2).

    `update` takes probabilities (B, 1, H, W) and masks (B, 1, H, W) in 0..1. As the field does, each
    prediction is rounded to 256 levels as saved masks are and stretched to its own range, and the mask is cut at
    128/255.
    """

    full_state_update = False

    def __init__(self):
        super().__init__()
        for name, shape in {"mae": (), "f_curve": (LEVELS,), "iou_curve": (LEVELS,), "images": ()}.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probability_B1HW: Tensor, mask_B1HW: Tensor) -> None:
        # In double precision, as numpy has it: in single precision whole levels fall below themselves.
        predicted_BN = _stretch((probability_B1HW.flatten(1).double() * 255).round() / 255)
        actual_BN = mask_B1HW.flatten(1) > 128 / 255
        self.images += len(actual_BN)
        self.mae += (predicted_BN - actual_BN.double()).abs().mean(1).sum()

        background, foreground = _histograms(predicted_BN, actual_BN)
        # Index k of the reversed cumulative sums counts the pixels at or above level 255 - k.
        true_positive = foreground.flip(1).cumsum(1)
        positive = true_positive + background.flip(1).cumsum(1)
        actual = foreground.sum(1, keepdim=True)
        precision = true_positive / positive.clamp_min(1)
        recall = true_positive / actual.clamp_min(1)
        product = (1 + BETA2) * precision * recall
        self.f_curve += (product / (BETA2 * precision + recall).where(product > 0, 1.0)).sum(0)
        union = positive + actual - true_positive
        self.iou_curve += (true_positive / union.clamp_min(1)).sum(0)

    def compute(self) -> dict[str, Tensor]:
        f_curve, iou_curve = self.f_curve / self.images, self.iou_curve / self.images
        return {
            "MAE": self.mae / self.images,
            "maxF": f_curve.max(),
            "meanF": f_curve.mean(),
            "mIoU": iou_curve.mean(),
            "IoU": iou_curve[LEVELS // 2 - 1],
        }


def _stretch(flat_BN: Tensor) -> Tensor:
    low, high = flat_BN.amin(1, keepdim=True), flat_BN.amax(1, keepdim=True)
    return torch.where(high > low, (flat_BN - low) / (high - low), flat_BN)


def _histograms(predicted_BN: Tensor, actual_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels per prediction level in background and foreground, each (B, 256)."""
    batch = len(predicted_BN)
    image = torch.arange(batch, device=predicted_BN.device)[:, None]
    index = (image * 2 + actual_BN) * LEVELS + (predicted_BN * 255).long()
    counts = torch.bincount(index.flatten(), minlength=batch * 2 * LEVELS).double()
    background, foreground = counts.view(batch, 2, LEVELS).unbind(1)
    return background, foreground
