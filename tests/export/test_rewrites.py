"""Graphs that are rewritten to take less time: the same masks, and the net's own weights can be read back."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from u2slim.evaluation.entries import net_gmac, onnx_facts
from u2slim.models import Net
from u2slim.runtime import OpenCVRunner, OpenVINORunner
from u2slim.runtime.onnx_convolutions import read_convolutions
from u2slim.runtime.onnx_runners import OnnxRuntimeRunner
from u2slim.runtime.onnx_writer import write_onnx
from u2slim.runtime.torch_runner import TorchRunner

HEIGHT, WIDTH = 37, 53


class Decoder(Net):
    """The end of a net: a small map, enlarged beside a large one, is brought to few channels, and then to a mask."""

    name = "decoder"
    outputs = ("mask",)

    def __init__(self, narrow: int = 5, resized: str = "bilinear", twice: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.small, self.large = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(3, 16, 3, padding=1)
        self.narrow = nn.Conv2d(28, narrow, 1)
        self.head = nn.Conv2d(narrow + (28 if twice else 16), 1, 3, padding=1)
        self.resized, self.twice = resized, twice

    def forward(self, x: Tensor, upsampled: bool = True) -> list[Tensor]:
        small, large = self.small(x), self.large(x)
        both = torch.cat([interpolate(small, large.shape[2:], mode=self.resized), large], 1)
        narrow = self.narrow(both).relu()
        return [self.head(torch.cat([narrow, both if self.twice else large], 1))]


def written(net: Net, path: Path, **settings) -> list[str]:
    """Write the net, and return the names of the file's convolutions."""
    write_onnx(net.eval(), (HEIGHT, WIDTH), path, "embedded", **settings)
    return [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize("batch", [1, None, 3])
def test_a_narrowing_comes_before_the_enlarging_and_a_head_in_two_parts(batch: int | None, tmp_path: Path):
    net, path = Decoder(), tmp_path / "net.onnx"
    names = written(net, path, batch=batch)
    assert names == ["small", "large", "narrow.enlarged", "narrow.beside", "head.taps", "head.sum"]
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.float32)
    expected = TorchRunner(net, (HEIGHT, WIDTH), device="cpu").infer(image)
    for kind in (OpenCVRunner, OnnxRuntimeRunner, OpenVINORunner):
        if kind is OpenCVRunner and batch is None:
            continue
        np.testing.assert_allclose(kind(path).infer(image), expected, atol=1e-5)
    if batch == 1:
        # Of the narrowing, three quarters of the small map's part are gone; a head has 81 more a pixel.
        saved = (12 * 5 * (HEIGHT * WIDTH - 19 * 27) - 81 * HEIGHT * WIDTH) / 1e9
        assert onnx_facts(path).gmac == pytest.approx(net_gmac(net, (HEIGHT, WIDTH)) - saved, rel=1e-6)
    weights = {found.name: found for found in read_convolutions(path).convolutions}
    for name in ("narrow", "head"):
        module = net.get_submodule(name)
        np.testing.assert_array_equal(weights[name].weight_OIKK, module.weight.detach().numpy())
        np.testing.assert_array_equal(weights[name].bias_O, module.bias.detach().numpy())


@pytest.mark.parametrize("settings", [{"narrow": 12}, {"resized": "nearest"}, {"twice": True}])
def test_what_would_save_nothing_or_change_the_mask_stays_as_it_is(settings: dict, tmp_path: Path):
    names = written(Decoder(**settings), tmp_path / "net.onnx")
    assert "narrow" in names and "head.taps" in names
