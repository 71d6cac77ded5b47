"""How long scoring takes, ours against `pysodmetrics` stepped in one process: python -m benchmarks.scoring.

Both read the same ECSSD-sized predictions and masks from PNG files and give the same numbers (checked to 1e-6).
Ours starts its processes, and computes relaxed boundary F and boundary IoU besides, within its time.
"""

import argparse
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import py_sod_metrics as sod
from loky import cpu_count

from u2slim.data.catalog import get_data_set
from u2slim.data.pairs import Pair
from u2slim.data.sample import render
from u2slim.evaluation.entries import Model
from u2slim.evaluation.results import ModelFacts
from u2slim.evaluation.score_sets import score_all, summarise
from u2slim.evaluation.scoring import field_scores, handlers
from u2slim.evaluation.store import Store

SIDES = ((300, 400), (400, 300), (267, 400), (400, 267))  # height and width of most of ECSSD


def write_pairs(folder: Path, count: int) -> list[Pair]:
    """Masks of the sample set at ECSSD's sizes, and predictions that are soft and a little beside them."""
    rng, pairs = np.random.default_rng(0), []
    (folder / "masks").mkdir()
    (folder / "predictions").mkdir()
    for index in range(count):
        size = SIDES[index % len(SIDES)]
        mask = cv2.resize(render(0, index % 100)[1], size[::-1], interpolation=cv2.INTER_NEAREST)
        shift = np.float32([[1, 0, rng.normal(0, 3)], [0, 1, rng.normal(0, 3)]])
        soft = cv2.GaussianBlur(cv2.warpAffine(mask, shift, size[::-1]), (0, 0), 3)
        if index % 4:  # as nets do, most have specks of almost nothing all over
            soft = np.maximum(soft, rng.integers(0, 256, size) // 180).astype(np.uint8)
        path = folder / "masks" / f"{index:04d}.png"
        cv2.imwrite(str(path), mask)
        cv2.imwrite(str(folder / "predictions" / path.name), soft)
        pairs.append(Pair(get_data_set("ecssd"), path.stem, path, path))
    return pairs


def stepped(pairs: list[Pair], predictions: Path) -> dict[str, float]:
    """The field's numbers as `pysodmetrics` is meant to be used: every metric steps over every pair."""
    mae, s, weighted_f, e = sod.MAE(), sod.Smeasure(), sod.WeightedFmeasure(), sod.Emeasure()
    by_threshold = sod.FmeasureV2(handlers())
    for pair in pairs:
        prediction = cv2.imread(str(predictions / pair.mask.name), cv2.IMREAD_GRAYSCALE)
        mask = cv2.imread(str(pair.mask), cv2.IMREAD_GRAYSCALE)
        for metric in (mae, s, weighted_f, e, by_threshold):
            metric.step(prediction, mask)
    return field_scores(mae, s, weighted_f, e, by_threshold)


def ours(pairs: list[Pair], predictions: Path, store: Path) -> dict[str, float]:
    model = {"predictions": Model(ModelFacts(), folder=predictions)}
    finished = Store(store)
    scored = score_all(model, {"ecssd": pairs}, finished, stretches=(True,))
    return summarise("predictions", scored["predictions", "ecssd"], finished, stretch=True).scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs, predictions = write_pairs(folder, options.images), folder / "predictions"
        for number in range(options.rounds):
            start = time.perf_counter()
            theirs = stepped(pairs, predictions)
            middle = time.perf_counter()
            mine = ours(pairs, predictions, folder / f"{number}.sqlite")
            end = time.perf_counter()
            largest = max(abs(mine[name] - value) for name, value in theirs.items())
            if not largest <= 1e-6:
                raise SystemExit(f"the numbers differ by {largest:.2g}")
            ratios.append((end - middle) / (middle - start))
            print(f"round {number + 1}: pysodmetrics 1, ours {ratios[-1]:.2f}; largest difference {largest:.1e}")
    print(
        f"{options.images} images, {cpu_count()} cores, Python {platform.python_version()}: "
        f"ours takes {statistics.median(ratios):.2f} times as long as pysodmetrics in one process"
    )


if __name__ == "__main__":
    main()
