"""How well a mask follows the outline of its subject. No library has these two for saliency.

Both take boolean masks (H, W) and give 1 where neither has what is compared, 0 where only one has.
"""

import cv2
import numpy as np

from u2slim.evaluation.results import BETA2

SLACK = 3
DILATION = 0.02


def relaxed_boundary_f(predicted_HW: np.ndarray, actual_HW: np.ndarray, slack: int = SLACK) -> float:
    """F-measure (beta^2 = .3) of outlines, where a pixel within `slack` pixels of the other outline is right.

    As in the U2-Net paper (section 4.2): an outline is what one 3x3 erosion takes away from the mask, so the
    image's frame is no outline.
    """
    predicted, actual = _outline(predicted_HW), _outline(actual_HW)
    if not predicted.any() or not actual.any():
        return float(predicted.any() == actual.any())
    precision = _within(slack, actual)[predicted].mean()
    recall = _within(slack, predicted)[actual].mean()
    if precision + recall == 0:
        return 0.0
    return float((1 + BETA2) * precision * recall / (BETA2 * precision + recall))


def boundary_iou(predicted_HW: np.ndarray, actual_HW: np.ndarray) -> float:
    """IoU of the masks' inner bands, 2 % of the image's diagonal wide (Cheng et al., Boundary IoU, CVPR 2021)."""
    width = max(1, round(DILATION * float(np.hypot(*actual_HW.shape))))
    predicted, actual = _band(predicted_HW, width), _band(actual_HW, width)
    union = np.count_nonzero(predicted | actual)
    return np.count_nonzero(predicted & actual) / union if union else 1.0


def _outline(mask_HW: np.ndarray) -> np.ndarray:
    return mask_HW & (cv2.erode(mask_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)


def _band(mask_HW: np.ndarray, width: int) -> np.ndarray:
    # Beyond the frame is background here, as in the paper's own code.
    eroded = cv2.erode(
        mask_HW.astype(np.uint8),
        np.ones((3, 3), np.uint8),
        iterations=width,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return mask_HW & (eroded == 0)


def _within(slack: int, outline_HW: np.ndarray) -> np.ndarray:
    """The pixels at most `slack` pixels (Euclidean) from the outline."""
    y, x = np.ogrid[-slack : slack + 1, -slack : slack + 1]
    disk = (y * y + x * x <= slack * slack).astype(np.uint8)
    return cv2.dilate(outline_HW.astype(np.uint8), disk) > 0
