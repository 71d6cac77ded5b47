"""The loss against its formula; the validation metrics against `pysodmetrics`."""

import numpy as np
import pytest
import torch

from src.data.sample import render
from src.errors import UserError
from src.evaluation import Scores
from src.losses import OUTPUTS, DeepSupervision
from src.metrics import SaliencyMetrics


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
    metric, scores = SaliencyMetrics(), Scores()
    for start in range(0, 10, 4):
        batch = predictions()[start : start + 4]
        stacked = [torch.from_numpy(np.stack(arrays))[:, None].float() / 255 for arrays in zip(*batch, strict=True)]
        metric.update(*stacked)
        for prediction, mask in batch:
            scores.add(prediction, mask)
    ours, theirs = metric.compute(), scores.result()
    for name in ("MAE", "maxF", "meanF", "mIoU"):
        assert float(ours[name]) == pytest.approx(theirs[name], abs=1e-3), name


def test_scores_without_stretching_are_pysodmetrics_without_normalisation():
    raw, by_hand = Scores(stretch=False), []
    for prediction, mask in predictions():
        prediction = (prediction * 0.6 + 20).astype(np.uint8)
        raw.add(prediction, mask)
        by_hand.append(np.abs(prediction / 255 - (mask > 128)).mean())
    assert raw.result()["MAE"] == pytest.approx(np.mean(by_hand), abs=1e-9)


def test_perfect_and_inverted_masks_score_one_and_zero():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    perfect, inverted = SaliencyMetrics(), SaliencyMetrics()
    perfect.update(mask, mask)
    inverted.update(1 - mask, mask)
    assert {k: float(v) for k, v in perfect.compute().items() if k != "meanF"} == {"MAE": 0, "maxF": 1, "mIoU": 1}
    assert float(inverted.compute()["MAE"]) == 1
    assert float(inverted.compute()["mIoU"]) == 0
