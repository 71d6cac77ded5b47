"""The scores of one prediction: the field's by `pysodmetrics`, the outlines' by `boundary`.

Imported by every scoring process, so nothing here may need torch.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import py_sod_metrics as sod

from u2slim.errors import UserError
from u2slim.evaluation.agreement import packed
from u2slim.evaluation.boundary import boundary_iou, relaxed_boundary_f
from u2slim.evaluation.results import BETA2, CURVES, SCORES
from u2slim.images.masks import NOTHING, enlarge, minmax, to_8bit
from u2slim.images.read import read_gray, read_image, read_mask
from u2slim.images.refine import Refine

IMAGE_SCORES = tuple(name for name in SCORES if name != "maxF_set")  # what an image by itself has
ALL_BLACK = "all-black truth"
FALSE_ALARM = f"{ALL_BLACK}, where a subject is seen"


@dataclass(frozen=True)
class ImageScores:
    """Scores (IMAGE_SCORES,) float64 and curves (CURVES, 256) float32; `note` names an oddity.

    `cut` is the prediction cut at 1/2, as `agreement.packed` packs it.
    """

    values: np.ndarray
    curves: np.ndarray
    note: str = ""
    cut: bytes = b""

    @property
    def has_subject(self) -> bool:
        """Whether there is one in truth, without which most scores mean nothing."""
        return not self.note.startswith(ALL_BLACK)


class _Binned(sod.FmeasureV2):
    """`FmeasureV2` counting levels in one pass instead of by sorting all pixels: the same counts, sooner."""

    def dynamically_binarizing(self, pred: np.ndarray, gt: np.ndarray, FG: int, BG: int) -> dict[str, np.ndarray]:
        levels = (pred * 255).astype(np.uint8)
        true_positive = np.bincount(levels[gt], minlength=256)[::-1].cumsum()
        false_positive = np.bincount(levels[~gt], minlength=256)[::-1].cumsum()
        return {
            "tp": true_positive,
            "fp": false_positive,
            "fn": FG - true_positive,
            "tn": BG - false_positive,
        }


class _WeightedF(sod.WeightedFmeasure):
    """`WeightedFmeasure` with its 7x7 window in OpenCV instead of scipy: the same numbers, sooner."""

    def cal_wfm(self, pred: np.ndarray, gt: np.ndarray) -> float:
        scipys = sod.sod_metrics.convolve
        sod.sod_metrics.convolve = _window
        try:
            return super().cal_wfm(pred, gt)
        finally:
            sod.sod_metrics.convolve = scipys


def _window(image: np.ndarray, weights: np.ndarray, mode: str, cval: float) -> np.ndarray:
    return cv2.filter2D(image, -1, weights, borderType=cv2.BORDER_CONSTANT)


def score(prediction: np.ndarray, mask: np.ndarray, stretch: bool = True) -> ImageScores:
    """Scores of a prediction against its mask, both (H, W) uint8 of the same size.

    With `stretch`, the prediction is stretched to its own range first, as is the field's custom.
    """
    predicted, actual = _probability(prediction, stretch), mask > 128
    mae, s, weighted_f, e = sod.MAE(), sod.Smeasure(), _WeightedF(), sod.Emeasure()
    by_threshold = _Binned(handlers())
    with warnings.catch_warnings():
        # upstream: not reported as far as known (seen with pysodmetrics 1.6.2); drop when nothing warns without it
        warnings.simplefilter("ignore")  # means over no pixels, which pysodmetrics counts as intended
        for metric in (mae, s, e, by_threshold):
            metric.step(predicted, actual, normalize=False)
        inside = _inside(predicted, actual)
        weighted_f.step(predicted[inside], actual[inside], normalize=False)
    threshold = by_threshold.get_results()
    values = field_scores(mae, s, weighted_f, e, by_threshold) | {
        "relaxF": relaxed_boundary_f(predicted > 0.5, actual),
        "bIoU": boundary_iou(predicted > 0.5, actual),
    }
    curves = {
        "precision": threshold["precision"]["dynamic"],
        "recall": threshold["recall"]["dynamic"],
        "F": threshold["f"]["dynamic"],
        "E": e.get_results()["em"]["curve"],
    }
    return ImageScores(
        np.array([values[name] for name in IMAGE_SCORES], np.float64),
        np.array([curves[name] for name in CURVES], np.float32),
        "" if actual.any() else ALL_BLACK,
        packed(predicted > 0.5),
    )


def f_and_mae(prediction: np.ndarray, mask: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Of what `score` computes with stretching, soon: MAE, F at 256 thresholds, and the prediction cut at 1/2."""
    predicted, actual = _probability(prediction, stretch=True), mask > 128
    mae = sod.MAE()
    by_threshold = _Binned({"f": handlers()["f"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `score`
        for metric in (mae, by_threshold):
            metric.step(predicted, actual, normalize=False)
    return mae.get_results()["mae"], by_threshold.get_results()["f"]["dynamic"], predicted > 0.5


def _probability(prediction: np.ndarray, stretch: bool) -> np.ndarray:
    predicted = prediction / 255
    if stretch and predicted.max() != predicted.min():
        predicted = (predicted - predicted.min()) / (predicted.max() - predicted.min())
    return predicted


def handlers() -> dict[str, object]:
    """What `FmeasureV2` has to compute."""
    return {
        "precision": sod.PrecisionHandler(with_dynamic=True, with_adaptive=False),
        "recall": sod.RecallHandler(with_dynamic=True, with_adaptive=False),
        "f": sod.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=BETA2),
        "iou": sod.IOUHandler(with_dynamic=True, with_adaptive=False, with_binary=True),
    }


def field_scores(
    mae: sod.MAE, s: sod.Smeasure, weighted_f: sod.WeightedFmeasure, e: sod.Emeasure, by_threshold: sod.FmeasureV2
) -> dict[str, float]:
    """What `pysodmetrics` found, under our names; `by_threshold` has our `handlers`."""
    threshold, em = by_threshold.get_results(), e.get_results()["em"]
    f, iou = threshold["f"], threshold["iou"]
    return {
        "MAE": mae.get_results()["mae"],
        "maxF": f["dynamic"].max(),
        "meanF": f["dynamic"].mean(),
        "adpF": f["adaptive"],
        "wF": weighted_f.get_results()["wfm"],
        "S": s.get_results()["sm"],
        "maxE": em["curve"].max(),
        "meanE": em["curve"].mean(),
        "adpE": em["adp"],
        "mIoU": iou["dynamic"].mean(),
        "IoU": iou["binary"],
    }


def _inside(predicted: np.ndarray, actual: np.ndarray) -> tuple[slice, slice]:
    """The box around all that is predicted or true, and what the weighted F's 7x7 window sees from there.

    Beyond it every error is zero, so that the weighted F, half of all work here, comes out the same.
    """
    if not actual.any():
        return np.s_[:, :]
    x, y, width, height = cv2.boundingRect(((predicted > 0) | actual).astype(np.uint8))
    return np.s_[max(0, y - 3) : y + height + 3, max(0, x - 3) : x + width + 3]


def score_image(
    prediction: np.ndarray | Path,
    mask: Path,
    stretches: Sequence[bool] = (True, False),
    refine: Refine | None = None,
    photo: Path | None = None,
) -> dict[bool, ImageScores] | str:
    """Scores with or without stretching, or why there are none.

    Args:
        prediction: a net's probability (h, w) float32 at its own resolution, or a prediction's file.
        mask: the truth's file.
        refine: what is done to a net's mask at the size of its photo, whose file `photo` is.
    """
    try:
        truth = read_mask(mask)
        plain, stretched = both_masks(prediction, truth.shape, refine and partial(refine, read_image(photo)))
    except UserError as error:
        return str(error)
    if min(truth.shape) < 2:
        return f"too small to score: {truth.shape[1]}x{truth.shape[0]}"
    if plain.shape != truth.shape:
        (height, width), (rows, columns) = plain.shape, truth.shape
        return f"the prediction is {width}x{height}, its truth {columns}x{rows}; resize it"
    if plain is stretched and (plain.min(), plain.max()) == (0, 255):  # stretching it would change nothing
        scores = dict.fromkeys(stretches, score(plain, truth))
    else:
        scores = {stretch: score(stretched if stretch else plain, truth, stretch) for stretch in stretches}
    if plain.max() >= NOTHING * 255:  # as `u2slim cut` tells a subject from none
        scores = {s: one if one.has_subject else replace(one, note=FALSE_ALARM) for s, one in scores.items()}
    for one in scores.values():
        if wrong := [name for name, value in zip(IMAGE_SCORES, one.values, strict=True) if not np.isfinite(value)]:
            return f"{', '.join(wrong)} cannot be computed for it"
    return scores


def both_masks(
    prediction: np.ndarray | Path, shape: tuple[int, int], refine: Callable[[np.ndarray], np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A prediction without and with stretching in 256 levels, as saved masks have; `shape` is its photo's.

    A net's mask is stretched at the net's resolution, as U2-Net's own test script does, and refined at the photo's.
    """
    if isinstance(prediction, np.ndarray):
        large = (enlarge(mask, shape) for mask in (prediction, minmax(prediction)))
        plain, stretched = (to_8bit(refine(mask) if refine else mask) for mask in large)
        return plain, stretched
    mask = read_gray(prediction)
    return mask, mask
