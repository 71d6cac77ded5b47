"""Channels with large means between two convolutions: what fewer bits lose there without `export.centring`."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import random_net
from tests.export.test_export import SIDE, deployment
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.export import deploy
from u2slim.export.calibration import input_blobs, values_of
from u2slim.export.centring import centre
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


def without_centring(monkeypatch) -> None:
    monkeypatch.setattr(deploy, "centre", lambda path, photos: None)


def test_8_bits_need_no_layer_in_float(tmp_path: Path, monkeypatch, caplog):
    caplog.set_level("INFO")
    rows = deployment(Far()).write(tmp_path / "far.onnx", "embedded", "int8")
    assert all(row.iou > 0.95 and row.mean < 0.01 for row in rows) and "stay in float" not in caplog.text
    without_centring(monkeypatch)
    deployment(Far()).write(tmp_path / "far.onnx", "embedded", "int8")
    assert "these layers stay in float" in caplog.text, "or there was nothing to mend"


def test_16_bits_keep_the_masks(tmp_path: Path, monkeypatch):
    rows = deployment(Far()).write(tmp_path / "far.onnx", "embedded", "fp16")
    assert all(row.iou > 0.999 for row in rows)
    without_centring(monkeypatch)
    with pytest.raises(UserError, match="have an IoU of .* with torch's"):
        deployment(Far()).write(tmp_path / "far.onnx", "embedded", "fp16")


def test_masks_stay_the_same_and_means_become_zero(tmp_path: Path):
    whole, centred = tmp_path / "whole.onnx", tmp_path / "centred.onnx"
    for path in (whole, centred):
        write_onnx(Far(mean=3.0), SIDE, path)
    centre(centred, IMAGES)
    for image in IMAGES:
        difference = OnnxRuntimeRunner(whole)(image) - OnnxRuntimeRunner(centred)(image)
        assert np.abs(difference).max() < 1e-5
    means = {}
    for path in (whole, centred):
        seen = list(values_of(onnx.load(path), ["first", "middle"], input_blobs(path, IMAGES)))
        for name in ("first", "middle"):
            means[path, name] = np.mean([values[name].mean((0, 2, 3)) for values in seen], 0)
    assert np.abs(means[whole, "first"]).min() > 2 and np.abs(means[whole, "middle"]).max() > 2
    assert max(np.abs(means[centred, name]).max() for name in ("first", "middle")) < 1e-4


def test_a_net_of_low_rank_is_read_again(tmp_path: Path):
    """Its first factors have a bias in the file, and none in torch."""
    path = tmp_path / "net.onnx"
    write_onnx(random_net(conv=LowRankConv), SIDE, path)
    before = {name: tensor.clone() for name, tensor in open_net(path).net().state_dict().items()}
    centre(path, IMAGES)
    assert any(node.name.endswith(".reduce") and len(node.input) == 3 for node in onnx.load(path).graph.node)
    for name, tensor in open_net(path).net().state_dict().items():
        torch.testing.assert_close(tensor, before[name], msg=name)
