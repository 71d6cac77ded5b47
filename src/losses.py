"""Training losses on the nets' logits."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import UserError

OUTPUTS = ("fused", "side1", "side2", "side3", "side4", "side5", "side6")


class DeepSupervision(nn.Module):
    """The weighted sum of one binary cross-entropy per output, U2-Net's loss when all weights are 1.

    Input: logits `[fused, side1, ..., side6]` and a mask in 0..1, each (B, 1, H, W).
    Output: the total, and the unweighted terms by name.
    """

    def __init__(self, weights: Sequence[float] = (1.0,) * len(OUTPUTS)):
        super().__init__()
        if len(weights) != len(OUTPUTS):
            raise UserError(f"loss.weights has {len(weights)} numbers; give {len(OUTPUTS)}: {', '.join(OUTPUTS)}.")
        self.weights = tuple(weights)

    def forward(self, logits: Sequence[Tensor], mask_B1HW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        terms = {
            name: F.binary_cross_entropy_with_logits(output.float(), mask_B1HW)
            for name, output in zip(OUTPUTS, logits, strict=True)
        }
        total = sum(weight * term for weight, term in zip(self.weights, terms.values(), strict=True))
        return total, terms
