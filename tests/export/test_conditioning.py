"""Channels between two convolutions: what fewer bits lose there without `export.conditioning`."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import random_net
from tests.export.test_export import SIDE, deployment, stored_weights
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.export import deploy
from u2slim.export.calibration import input_blobs, values_of
from u2slim.export.conditioning import condition
from u2slim.models import LowRankConv, Net
from u2slim.runtime.onnx_runners import OnnxRuntimeRunner
from u2slim.runtime.onnx_writer import write_onnx
from u2slim.zoo import open_net

IMAGES = [render(1, index)[0] for index in range(4)]


class Far(Net):
    """Three convolutions in a chain, whose channels between are far from 0 and vary little."""

    name = "far"
    outputs = ("mask",)

    def __init__(self, mean: float = 1000.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(16, 1, 1)
        with torch.no_grad():
            self.last.weight *= 16
            logit = self._last_two(torch.zeros(1, 16, 1, 1))
            self.first.bias += mean
            self.last.bias += (logit - self._last_two(torch.full((1, 16, 1, 1), mean))).flatten()

    def _last_two(self, x: Tensor) -> Tensor:
        return self.last(self.middle(x))

    def forward(self, x: Tensor, upsampled: bool = True) -> list[Tensor]:
        return [self._last_two(self.first(x))]


class Cancelling(Net):
    """Two convolutions whose weights are hundreds of times as large as their product."""

    name = "cancelling"
    outputs = ("mask",)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 1, 1)
        turn, back = (torch.linalg.qr(torch.randn(8, 8, dtype=torch.double))[0] for _ in range(2))
        mix = turn @ torch.diag(torch.logspace(0, -3.5, 8, dtype=torch.double)) @ back
        with torch.no_grad():
            self.first.weight.copy_(torch.einsum("ab,bikl->aikl", mix, self.first.weight.double()))
            self.first.bias.copy_(mix @ self.first.bias.double())
            self.second.weight.copy_(torch.einsum("oakl,ab->obkl", self.second.weight.double(), mix.inverse()))
            self.last.weight *= 16

    def forward(self, x: Tensor, upsampled: bool = True) -> list[Tensor]:
        return [self.last(self.second(self.first(x)).relu())]


def without_conditioning(monkeypatch) -> None:
    monkeypatch.setattr(deploy, "condition", lambda path, photos: None)


def test_8_bits_need_no_layer_in_float(tmp_path: Path, monkeypatch, caplog):
    caplog.set_level("INFO")
    rows = deployment(Far()).write(tmp_path / "far.onnx", "embedded", "int8")
    assert all(row.iou > 0.95 and row.mean < 0.01 for row in rows) and "stay in float" not in caplog.text
    without_conditioning(monkeypatch)
    deployment(Far()).write(tmp_path / "far.onnx", "embedded", "int8")
    assert "these layers stay in float" in caplog.text, "or there was nothing to mend"


@pytest.mark.parametrize("net", [Far, Cancelling])
def test_16_bits_keep_the_masks(net: type[Net], tmp_path: Path, monkeypatch):
    rows = deployment(net()).write(tmp_path / "net.onnx", "embedded", "fp16")
    assert all(row.iou > 0.999 for row in rows)
    without_conditioning(monkeypatch)
    with pytest.raises(UserError, match="have an IoU of .* with torch's"):
        deployment(net()).write(tmp_path / "net.onnx", "embedded", "fp16")


@pytest.mark.parametrize("net", [Far(mean=3.0), Cancelling()], ids=lambda net: net.name)
def test_masks_stay_the_same(net: Net, tmp_path: Path):
    whole, changed = tmp_path / "whole.onnx", tmp_path / "changed.onnx"
    for path in (whole, changed):
        write_onnx(net, SIDE, path)
    condition(changed, IMAGES)
    pairs = zip(stored_weights(whole).values(), stored_weights(changed).values(), strict=True)
    assert any(not np.array_equal(*pair) for pair in pairs), "or nothing was changed"
    for image in IMAGES:
        difference = OnnxRuntimeRunner(whole)(image) - OnnxRuntimeRunner(changed)(image)
        assert np.abs(difference).max() < 2e-4


def test_means_become_zero(tmp_path: Path):
    path, means = tmp_path / "net.onnx", []
    write_onnx(Far(mean=3.0), SIDE, path)
    for change in (False, True):
        if change:
            condition(path, IMAGES)
        seen = values_of(onnx.load(path), ["first", "middle"], input_blobs(path, IMAGES))
        means.append(np.mean([[values[name].mean((0, 2, 3)) for name in ("first", "middle")] for values in seen], 0))
    before, after = np.abs(means)
    assert before[0].min() > 2 and before[1].max() > 2 and after.max() < 1e-4


def test_factors_are_as_large_as_their_product_needs(tmp_path: Path):
    path, ratios = tmp_path / "net.onnx", []
    write_onnx(Cancelling(), SIDE, path)
    for change in (False, True):
        if change:
            condition(path, IMAGES)
        first, second, _ = stored_weights(path).values()
        product = np.einsum("oakl,aj->oklj", second, first.reshape(len(first), -1)).reshape(-1, first[0].size)
        ratios.append(np.linalg.norm(first) * np.linalg.norm(second) / np.linalg.norm(product, "nuc"))
    assert ratios[0] > 50 and ratios[1] == pytest.approx(1, abs=0.1)


def test_a_net_of_low_rank_is_read_again(tmp_path: Path):
    """Its first factors have a bias in the file, and none in torch."""
    path = tmp_path / "net.onnx"
    write_onnx(random_net(conv=LowRankConv), SIDE, path)
    image_13HW = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        before = open_net(path).net()(image_13HW)[0]
        condition(path, IMAGES)
        assert any(node.name.endswith(".reduce") and len(node.input) == 3 for node in onnx.load(path).graph.node)
        torch.testing.assert_close(open_net(path).net()(image_13HW)[0], before, atol=1e-4, rtol=1e-4)
