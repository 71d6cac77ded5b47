"""The loss against its formula; the validation metrics against `pysodmetrics`."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.conftest import random_net
from u2slim.compress import init
from u2slim.data.catalog import get_data_set
from u2slim.data.dataset import load_pair
from u2slim.data.pairs import find_pairs
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.evaluation.results import CURVES
from u2slim.evaluation.scoring import IMAGE_SCORES, score
from u2slim.images.masks import to_8bit
from u2slim.models import U2Net
from u2slim.models.resize import upsample
from u2slim.runtime.torch_runner import TorchRunner
from u2slim.training.losses import BoundaryLoss, CrispLoss, DeepSupervision, FocalLoss, HybridLoss, TverskyLoss
from u2slim.training.metrics import SaliencyMetrics


def test_loss_is_u2nets_sum_of_seven_terms():
    torch.manual_seed(0)
    logits = {name: torch.randn(2, 1, 8, 8) for name in U2Net.outputs}
    mask = torch.rand(2, 1, 8, 8)
    probabilities = [1 / (1 + torch.exp(-x)) for x in logits.values()]
    by_hand = [-(mask * p.log() + (1 - mask) * (1 - p).log()).mean() for p in probabilities]

    total, terms = DeepSupervision()(logits, mask)
    torch.testing.assert_close(total, sum(by_hand))
    assert list(terms) == ["fused", *(f"side{n}" for n in range(1, 7))]
    torch.testing.assert_close(torch.stack(list(terms.values())), torch.stack(by_hand))

    weights = [5, 1, 1, 0.5, 1, 1, 0]
    total, _ = DeepSupervision(weights)(logits, mask)
    torch.testing.assert_close(total, sum(w * term for w, term in zip(weights, by_hand, strict=True)))


def test_side_outputs_at_their_own_size_give_the_plain_loss_and_gradient():
    """Against U2-Net's code: seven maps of full size, sigmoid, binary cross-entropy."""
    net = random_net().train()
    image, mask = torch.rand(2, 3, 64, 96), torch.rand(2, 1, 64, 96)

    def grads() -> list[torch.Tensor]:
        found = [parameter.grad.clone() for parameter in net.parameters()]
        net.zero_grad()
        return found

    plain = [F.binary_cross_entropy(output.sigmoid(), mask) for output in net(image)]
    sum(plain).backward()
    expected = grads()
    logits = net(image, upsampled=False)
    assert [tuple(output.shape[2:]) for output in logits] == [(64, 96), *((64 >> n, 96 >> n) for n in range(6))]
    total, terms = DeepSupervision()(dict(zip(net.outputs, logits, strict=True)), mask)
    total.backward()
    torch.testing.assert_close(torch.stack(list(terms.values())), torch.stack(plain))
    for found, wanted in zip(grads(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()) + 1e-6)


@pytest.mark.parametrize("size", [(10, 6), (9, 7)], ids=["doubled", "by another factor"])
def test_upsampling_has_the_gradient_of_interpolate(size):
    x = torch.randn(2, 3, 5, 3, dtype=torch.double, requires_grad=True)
    weight = torch.randn(2, 3, *size, dtype=torch.double)
    plain = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(x, size), plain)
    found, expected = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (upsample(x, size), plain))
    torch.testing.assert_close(found, expected)


def ssim_by_hand(image: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. 2004: an 11-pixel Gaussian window of deviation 1.5, K1 .01, K2 .03, range 1, mirrored borders."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    views = [
        np.lib.stride_tricks.sliding_window_view(np.pad(array, 5, "reflect"), (11, 11)) for array in (image, other)
    ]

    def mean(product: np.ndarray) -> np.ndarray:
        return (product * window).sum((2, 3))

    a, b = mean(views[0]), mean(views[1])
    aa, bb, ab = (mean(x * y) for x, y in ((views[0],) * 2, (views[1],) * 2, views))
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * a * b + c1) * (2 * (ab - a * b) + c2)
    return (similarity / ((a * a + b * b + c1) * (aa - a * a + bb - b * b + c2))).mean()


def soft_iou_by_hand(p: np.ndarray, m: np.ndarray, w: np.ndarray | float = 1.0) -> float:
    both, either = (p * m * w).sum(), ((p + m - p * m) * w).sum()
    return 1 - (both + 1) / (either + 1)


def test_hybrid_and_boundary_losses_are_their_formulas():
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 1, 20, 20, dtype=torch.double), (torch.rand(2, 1, 20, 20) > 0.6).double()
    images = [(1 / (1 + np.exp(-x[0])), m[0]) for x, m in zip(logits.numpy(), mask.numpy(), strict=True)]
    entropies = [-(m * np.log(p) + (1 - m) * np.log(1 - p)) for p, m in images]
    hybrid = np.mean([
        entropy.mean() + 1 - ssim_by_hand(p, m) + soft_iou_by_hand(p, m)
        for (p, m), entropy in zip(images, entropies, strict=True)
    ])  # fmt: skip
    assert float(HybridLoss().term(logits.float(), mask.float())) == pytest.approx(hybrid, rel=1e-4)

    expected = []
    for (p, m), entropy in zip(images, entropies, strict=True):
        padded = np.lib.stride_tricks.sliding_window_view(np.pad(m, 2), (5, 5)).mean((2, 3))
        weight = 1 + 3 * abs(padded - m)
        expected.append((weight * entropy).sum() / weight.sum() + soft_iou_by_hand(p, m, weight))
    boundary = BoundaryLoss(gain=3, window=5)
    assert float(boundary.term(logits.float(), mask.float())) == pytest.approx(np.mean(expected), rel=1e-5)
    outputs = [logits.float()] + [F.avg_pool2d(logits.float(), 2)] * 6
    total, _ = boundary(dict(zip(U2Net.outputs, outputs, strict=True)), mask.float())
    total_of_large = boundary.term(logits.float(), mask.float())
    small = F.interpolate(F.avg_pool2d(logits.float(), 2), size=(20, 20), mode="bilinear")
    assert float(total) == pytest.approx(float(total_of_large + 6 * boundary.term(small, mask.float())), rel=1e-5)
    with pytest.raises(UserError, match="loss.window=4: give an odd number"):
        BoundaryLoss(window=4)


def test_crisp_loss_is_its_formula_and_rewards_a_choice_where_cross_entropy_rewards_doubt():
    mask = torch.zeros(2, 1, 10, 10)
    mask[:, :, :7] = 1  # what a net cannot tell apart is foreground seven times out of ten
    answers = torch.linspace(0.01, 0.99, 99)

    def best(loss: DeepSupervision) -> float:
        costs = [float(loss.term(torch.full_like(mask, float(answer)).logit(), mask)) for answer in answers]
        return float(answers[int(np.argmin(costs))])

    assert best(DeepSupervision()) == pytest.approx(0.7)
    assert best(CrispLoss()) == pytest.approx(0.99)
    half = CrispLoss().term(torch.zeros_like(mask), mask)  # both 70 of which half, either 100 less the other half
    assert float(half) == pytest.approx(1 - (35 + 1) / (85 + 1) + 0.5)


def test_losses_for_small_subjects_are_their_formulas():
    torch.manual_seed(3)
    logits, mask = torch.randn(2, 1, 6, 8), torch.rand(2, 1, 6, 8)
    p = logits.sigmoid()
    cross_entropy = -(mask * p.log() + (1 - mask) * (1 - p).log())
    weighed = DeepSupervision(positive=4)
    assert not weighed.is_cross_entropy and DeepSupervision().is_cross_entropy
    expected = -(4 * mask * p.log() + (1 - mask) * (1 - p).log()).mean()
    torch.testing.assert_close(weighed.term(logits, mask), expected)

    hard = (mask > 0.8).float()
    right = torch.where(hard == 1, p, 1 - p)
    alpha = torch.where(hard == 1, 0.25, 0.75)
    focal = (-alpha * (1 - right) ** 2 * right.log()).mean()
    torch.testing.assert_close(FocalLoss().term(logits, hard), focal)

    missed, false, both = ((part).sum((1, 2, 3)) for part in ((1 - p) * mask, p * (1 - mask), p * mask))
    index = (both + 1) / (both + 0.7 * missed + 0.3 * false + 1)
    torch.testing.assert_close(TverskyLoss().term(logits, mask), cross_entropy.mean() + (1 - index).mean())
    for wrong in (lambda: DeepSupervision(positive=0), lambda: FocalLoss(alpha=1), lambda: TverskyLoss(false=-1)):
        with pytest.raises(UserError, match="loss.*give"):
            wrong()


def test_loss_wants_one_weight_an_output():
    with pytest.raises(UserError, match="loss.weights has 2 numbers; give 7"):
        DeepSupervision([1, 1]).weights_of(U2Net.outputs)


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
    runner, metric, theirs = TorchRunner(net, (320, 320)), SaliencyMetrics(), []
    for pair in find_pairs(get_data_set("ecssd"), real)[::25]:
        image, mask = load_pair(pair)
        probability = runner.small_mask(image)
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
