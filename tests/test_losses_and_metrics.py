"""The loss against its formula; the validation metrics against `pysodmetrics`."""

import cv2
import numpy as np
import pytest
import torch

from src import init
from src.data.dataset import load_pair
from src.data.pairs import find_pairs
from src.data.sample import render
from src.errors import UserError
from src.evaluation.scoring import IMAGE_SCORES, score
from src.losses import OUTPUTS, DeepSupervision
from src.masks import to_8bit
from src.metrics import SaliencyMetrics
from src.models import U2Net
from src.results import CURVES
from src.runtime import TorchSegmenter


def test_loss_is_u2nets_sum_of_seven_terms():
    torch.manual_seed(0)
    logits = [torch.randn(2, 1, 8, 8) for _ in OUTPUTS]
    mask = torch.rand(2, 1, 8, 8)
    probabilities = [1 / (1 + torch.exp(-x)) for x in logits]
    by_hand = [-(mask * p.log() + (1 - mask) * (1 - p).log()).mean() for p in probabilities]

    total, terms = DeepSupervision()(logits, mask)
    torch.testing.assert_close(total, sum(by_hand))
    assert list(terms) == list(OUTPUTS)
    torch.testing.assert_close(torch.stack(list(terms.values())), torch.stack(by_hand))

    weights = [5, 1, 1, 0.5, 1, 1, 0]
    total, _ = DeepSupervision(weights)(logits, mask)
    torch.testing.assert_close(total, sum(w * term for w, term in zip(weights, by_hand, strict=True)))


def test_loss_wants_one_weight_an_output():
    with pytest.raises(UserError, match="loss.weights has 2 numbers; give 7"):
        DeepSupervision([1, 1])


def predictions() -> list[tuple[np.ndarray, np.ndarray]]:
    """Soft, wrong, perfect, inverted, constant and empty predictions with their masks."""
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(6):
        mask = np.asarray(render(3, index)[1][:96, :96])
        noise = rng.integers(0, 120, mask.shape)
        pairs.append(((mask * 0.5 + noise).clip(0, 255).astype(np.uint8), mask))
    mask = pairs[0][1]
    pairs += [(mask, mask), (255 - mask, mask), (np.full_like(mask, 77), mask), (mask, np.zeros_like(mask))]
    return pairs


def test_validation_metrics_equal_pysodmetrics():
    metric, theirs = SaliencyMetrics(), []
    for start in range(0, 10, 4):
        batch = predictions()[start : start + 4]
        stacked = [torch.from_numpy(np.stack(arrays))[:, None].float() / 255 for arrays in zip(*batch, strict=True)]
        metric.update(*stacked)
        theirs += [score(prediction, mask) for prediction, mask in batch]
    assert_agree(metric, theirs)


def test_validation_metrics_equal_pysodmetrics_on_real_predictions(real):
    net = init.pretrained(U2Net("lite"), real / "weights" / "u2netp.pth").eval()
    segmenter, metric, theirs = TorchSegmenter(net, (320, 320)), SaliencyMetrics(), []
    for pair in find_pairs("ecssd", real)[::25]:
        image, mask = load_pair(pair)
        probability = segmenter.small_mask(image)
        mask = cv2.resize(mask, (320, 320), interpolation=cv2.INTER_NEAREST)
        metric.update(*(torch.from_numpy(array)[None, None] for array in (probability, mask / np.float32(255))))
        theirs.append(score(to_8bit(probability), mask))
    assert_agree(metric, theirs)


def assert_agree(metric: SaliencyMetrics, theirs: list) -> None:
    """The metric's numbers are those of the images that `pysodmetrics` scored, averaged as it does."""
    means = dict(zip(IMAGE_SCORES, np.mean([scores.values for scores in theirs], 0), strict=True))
    means["maxF"] = np.mean([scores.curves[CURVES.index("F")] for scores in theirs], 0).max()
    ours = {name: float(value) for name, value in metric.compute().items()}
    assert set(ours) == {"MAE", "maxF", "meanF", "mIoU", "IoU"}
    assert ours == pytest.approx({name: means[name] for name in ours}, abs=1e-3)


def test_perfect_and_inverted_masks_score_one_and_zero():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    perfect, inverted = SaliencyMetrics(), SaliencyMetrics()
    perfect.update(mask, mask)
    inverted.update(1 - mask, mask)
    assert {k: float(v) for k, v in perfect.compute().items() if "m" not in k[0]} == {"MAE": 0, "IoU": 1}
    assert float(inverted.compute()["MAE"]) == 1
    assert float(inverted.compute()["IoU"]) == 0
