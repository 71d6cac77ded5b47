"""What an evaluation found, as plain values that tables and pages are made from."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from u2slim.evaluation.agreement import AGREEMENTS

# Means over images unless said otherwise. maxF and maxE are the best point of the averaged curve, as `pysodmetrics`
# and most tables since 2020 have it; maxF_set takes the best F of precision and recall averaged over the set first,
# as the U2-Net paper's tool. meanF, meanE and mIoU average over all 256 thresholds; adpF and adpE cut at twice the
# prediction's mean; IoU cuts at 1/2, as relaxF (boundary F, slack 3 pixels) and bIoU (boundary IoU) do.
SCORES = (
    "MAE", "maxF", "maxF_set", "meanF", "adpF", "wF", "S", "maxE", "meanE", "adpE", "mIoU", "IoU", "relaxF", "bIoU",
)  # fmt: skip
BETA2 = 0.3  # the weight that the field gives to precision in the F-measure
LOWER_IS_BETTER = ("MAE", "alarms")
CURVES = ("precision", "recall", "F", "E")
# What tables call the fields of `ModelFacts`.
COSTS = {"params": "M params", "megabytes": "MB", "gmac": "GMAC", "milliseconds": "ms", "runtime": "runtime"}


@dataclass(frozen=True)
class ModelFacts:
    """What a model costs; None where it does not apply (a folder of masks) or was not measured.

    Args:
        params: number of parameters.
        megabytes: the file's size, or for a training checkpoint its weights' size, in 1e6 bytes.
        gmac: 1e9 multiply-accumulates of one image at the net's own input size.
        milliseconds: median time of one image at the net's own input size.
        runtime: what ran it.
    """

    params: int | None = None
    megabytes: float | None = None
    gmac: float | None = None
    milliseconds: float | None = None
    runtime: str = ""


@dataclass(frozen=True)
class Result:
    """One model on one data set, with or without per-image min-max.

    Args:
        scores: by name, all of `SCORES`.
        curves: by name, all of `CURVES`, each 256 values for thresholds 255, 254, ... 0, averaged over images.
        images: how many images the averages are over.
        left_out: image name -> why it is not in the averages.
        image_ious: the IoU of each image in the averages.
        agreement: with another net's masks of the same images, by name, all of `AGREEMENTS`; empty if not asked for.
        negatives: how many images have no subject; they are in none of the averages.
        alarms: under that name, in how many of them, of 1, the model sees one all the same; empty if there are none.
    """

    model: str
    data: str
    stretch: bool
    scores: dict[str, float]
    curves: dict[str, np.ndarray]
    images: int
    left_out: dict[str, str] = field(default_factory=dict)
    image_ious: np.ndarray = field(default_factory=lambda: np.zeros(0))
    agreement: dict[str, float] = field(default_factory=dict)
    negatives: int = 0
    alarms: dict[str, float] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """Scores, agreement and false alarms: what columns of tables may show."""
        return self.scores | self.agreement | self.alarms


def columns(results: Iterable[Result]) -> tuple[str, ...]:
    """The numbers that tables of these results show: `SCORES`, and what else any of them has."""
    found = {name for result in results for name in result.numbers}
    return SCORES + tuple(name for name in (*AGREEMENTS, "alarms") if name in found)


@dataclass(frozen=True)
class Picture:
    """One image with its truth and every model's mask, for looking at.

    Args:
        kind: `worst` or `median`, by IoU averaged over models.
        photo: (H, W, 3) RGB uint8.
        truth: (H, W) uint8; in a set with classes their numbers, as in `masks`.
        masks: model -> (H, W) uint8; a model that has no mask of this image is absent.
        ious: model -> IoU, of classes the mean over those of the image.
    """

    data: str
    name: str
    kind: str
    photo: np.ndarray
    truth: np.ndarray
    masks: dict[str, np.ndarray]
    ious: dict[str, float]
