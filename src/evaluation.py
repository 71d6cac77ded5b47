"""Scores of a segmenter on a data set, with the field's own implementations (`pysodmetrics`)."""

import warnings
from collections.abc import Sequence

import numpy as np
import py_sod_metrics as sod
from rich.progress import track

from src.data.catalog import Pair
from src.data.dataset import load_pair
from src.runtime import Segmenter

SCORES = ("MAE", "maxF", "meanF", "wF", "S", "maxE", "meanE", "mIoU")


class Scores:
    """Accumulates predictions and masks, both (H, W) uint8 of the photo's own size.

    With `stretch`, each prediction is scored stretched to its own range, as is the field's custom.
    """

    def __init__(self, stretch: bool = True):
        self.stretch = stretch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.mae, self.s = sod.MAE(), sod.Smeasure()
            self.weighted_f, self.e = sod.WeightedFmeasure(), sod.Emeasure()
            self.by_threshold = sod.FmeasureV2(
                {
                    "f": sod.FmeasureHandler(with_dynamic=True, with_adaptive=False, beta=0.3),
                    "iou": sod.IOUHandler(with_dynamic=False, with_adaptive=False, with_binary=True),
                }
            )

    def add(self, prediction: np.ndarray, mask: np.ndarray) -> None:
        for metric in (self.mae, self.s, self.weighted_f, self.e, self.by_threshold):
            if self.stretch:
                metric.step(prediction, mask)
            else:
                metric.step(prediction / 255, mask > 128, normalize=False)

    def result(self) -> dict[str, float]:
        """By name: maxF and maxE are the best point of the curve averaged over images; mIoU is cut at 1/2."""
        f_curve = self.by_threshold.get_results()["f"]["dynamic"]
        e_curve = self.e.get_results()["em"]["curve"]
        values = {
            "MAE": self.mae.get_results()["mae"],
            "maxF": f_curve.max(),
            "meanF": f_curve.mean(),
            "wF": self.weighted_f.get_results()["wfm"],
            "S": self.s.get_results()["sm"],
            "maxE": e_curve.max(),
            "meanE": e_curve.mean(),
            "mIoU": self.by_threshold.get_results()["iou"]["binary"],
        }
        return {name: float(value) for name, value in values.items()}


def evaluate(segmenter: Segmenter, pairs: Sequence[Pair]) -> dict[str, float]:
    """Scores of a segmenter over pairs, each at its photo's own size and in 256 levels as saved masks have."""
    scores = Scores(segmenter.stretch)
    for pair in track(pairs, "evaluating"):
        image, mask = load_pair(pair)
        scores.add(np.rint(segmenter(image) * 255).astype(np.uint8), mask)
    return scores.result()
