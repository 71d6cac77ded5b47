"""Exported graphs: their names, outputs, open sizes and smaller weights, computed by onnxruntime beside torch."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from tests.conftest import random_net
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.export.calibration import Gate
from u2slim.export.deploy import Deployment
from u2slim.export.half import store_in_half
from u2slim.export.int8 import _layer_of
from u2slim.export.parity import check_parity, reference_of
from u2slim.models import DepthwiseSeparableConv, Net
from u2slim.models.normalise import Normalise
from u2slim.runtime.onnx_reader import read_graph
from u2slim.runtime.onnx_runners import OnnxRuntimeRunner
from u2slim.runtime.onnx_writer import convert, write_onnx

SIDE = 64


@pytest.fixture(scope="module")
def net():
    return random_net(conv=DepthwiseSeparableConv)


def sevenfold(net: torch.nn.Module, image_13HW: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        return [logits.sigmoid().numpy() for logits in net(Normalise()(torch.from_numpy(image_13HW)))]


def test_names_follow_the_modules_and_metadata_say_what_the_file_is(net, tmp_path: Path):
    write_onnx(net, SIDE, tmp_path / "a.onnx", metadata={"weights": "a.ckpt, step 7"})
    model = onnx.load(tmp_path / "a.onnx")
    names = {node.name: node for node in model.graph.node}
    assert len(names) == len(model.graph.node)
    modules = dict(net.named_modules())
    convolutions = [node for node in names.values() if node.op_type == "Conv"]
    # One for each of the net's, so BatchNorm is folded; the side heads are two each (`test_rewrites.py`).
    heads = {f"sides.{n}.{part}" for n in range(6) for part in ("taps", "sum")}
    assert heads <= names.keys()
    convolutions = [node for node in convolutions if node.name not in heads]
    assert len(convolutions) + 6 == sum(isinstance(module, torch.nn.Conv2d) for module in modules.values())
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in convolutions:
        assert isinstance(modules[node.name], torch.nn.Conv2d)
        assert node.input[1] == f"{node.name}.weight"
        assert tuple(weights[node.input[1]].dims) == tuple(modules[node.name].weight.shape)
    assert not {"BatchNormalization", "Constant", "Shape"} & {node.op_type for node in names.values()}
    metadata = {item.key.removeprefix("u2slim."): item.value for item in model.metadata_props}
    assert metadata == {
        "net": "u2net-lite-dwsep",
        "preprocess": "embedded",
        "size": "64",
        "input": "RGB, 0..255",
        "outputs": "mask",
        "precision": "fp32",
        "weights": "a.ckpt, step 7",
        "mean": "0.485 0.456 0.406",
        "std": "0.229 0.224 0.225",
        "divisor": "maximum",
    }
    assert str(Path.cwd()).encode() not in (tmp_path / "a.onnx").read_bytes()


@pytest.mark.slow
def test_all_outputs_at_any_size_are_torchs(net, tmp_path: Path):
    path = tmp_path / "open.onnx"
    write_onnx(net, SIDE, path, outputs="all", dynamic=True)
    session = onnxruntime.InferenceSession(path)
    assert [output.name for output in session.get_outputs()] == ["mask", *(f"side{n}" for n in range(1, 7))]
    for height, width in ((SIDE, SIDE), (96, 160)):
        image = np.random.default_rng(0).uniform(0, 200, (1, 3, height, width)).astype(np.float32)
        for made, wanted in zip(session.run(None, {"image": image}), sevenfold(net, image), strict=True):
            np.testing.assert_allclose(made, wanted, atol=1e-4)
    assert read_graph(path).size == (SIDE, SIDE), "the size that the net was trained for"


def constants(path: Path) -> dict[str, np.ndarray]:
    return {constant.name: numpy_helper.to_array(constant) for constant in onnx.load(path).graph.initializer}


def stored_weights(path: Path, part: int = 0) -> dict[str, np.ndarray]:
    """Of each convolution by its module's name, as the file has them: before they are cast or multiplied by a scale.

    `part`: 1 for those scales.
    """
    graph, known = onnx.load(path).graph, constants(path)
    made_of = {node.output[0]: node.input for node in graph.node}
    weights = {node.name: node.input[1] for node in graph.node if node.op_type == "Conv"}
    return {name: known[value if value in known else made_of[value][part]] for name, value in weights.items()}


def total(path: Path) -> int:
    return sum(constant.nbytes for constant in constants(path).values())


def test_fp16_halves_the_file_and_keeps_what_float16_cannot_hold(tmp_path: Path):
    net = random_net(conv=DepthwiseSeparableConv)
    with torch.no_grad():  # the same function, with one weight that float16 takes for infinity
        net.sides[0].weight *= 1e7
        net.sides[0].bias *= 1e7
        net.fuse.weight[:, 0] /= 1e7
    images = [np.random.default_rng(n).integers(0, 256, (SIDE, SIDE, 3), np.uint8) for n in range(2)]
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    write_onnx(net, SIDE, whole)
    write_onnx(net, SIDE, half)
    convert(half, store_in_half, "fp16")
    original = constants(whole)
    stored = stored_weights(half)
    assert stored["sides.0.taps"].dtype == np.float32
    pointwise = "encoder.0.encoder.0.conv.pointwise"
    assert stored[pointwise].dtype == np.float16
    np.testing.assert_array_equal(stored[pointwise], original[f"{pointwise}.weight"].astype(np.float16))
    assert total(half) < 0.6 * total(whole)
    assert half.stat().st_size - total(half) < 0.6 * (whole.stat().st_size - total(whole)), "names of values and nodes"
    reference = reference_of(net, images, SIDE, repeats=1)
    rows = [reference.row, *check_parity(reference, half, tolerance=0.05, min_iou=0.98, repeats=1)]
    assert [row.runtime for row in rows][:3] == ["torch", "opencv", "onnxruntime"]
    with pytest.raises(UserError, match="have an IoU of .* less than export.min_iou=1.01"):
        check_parity(reference, half, tolerance=0.05, min_iou=1.01, repeats=1)


class Three(Net):
    """Three convolutions, the fourth of what is between them only ever multiplied by 0."""

    name = "three"
    outputs = ("mask",)

    def __init__(self, unused: float = 1.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 1, 3)
        with torch.no_grad():
            self.first.weight[4] *= unused
            self.middle.weight[:, 4] = 0
            self.last.weight *= 8

    def forward(self, x: torch.Tensor, upsampled: bool = True) -> list[torch.Tensor]:
        features = [torch.nn.functional.pad(x, (3, 3, 3, 3))]
        for conv in (self.first, self.middle):
            features.append(conv(features[-1]).relu())
        logits = self.last(features[-1])
        return [logits - self.level(logits)]

    def level(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.mean()


def deployment(net: Net, **settings) -> Deployment:
    images = [render(0, index)[0] for index in range(3)]
    gate = Gate([], images, settings.pop("max_loss", 0.01))
    return Deployment(net, SIDE, images=images, photos=images, gate=gate, **settings)


def test_int8_weights_are_rounded_by_channel_and_outliers_keep_their_layers_in_float(
    tmp_path: Path, caplog, monkeypatch
):
    caplog.set_level("INFO")
    path = tmp_path / "net.onnx"
    deployment(Three()).write(path, "embedded", "int8")
    weight = Three().middle.weight.detach().numpy()
    scale = np.abs(weight).max((1, 2, 3)) / 127
    quantised = stored_weights(path)["middle"]
    assert quantised.dtype == np.int8
    np.testing.assert_allclose(stored_weights(path, part=1)["middle"], scale, rtol=1e-5)
    np.testing.assert_allclose(quantised, weight / scale[:, None, None, None], atol=0.5 + 1e-3)
    assert "stay in float" not in caplog.text

    wide = Three(unused=1e4)  # 8 bits for it leave none for the others
    rows = deployment(wide).write(path, "embedded", "int8")
    kept = re.search(r"these layers stay in float: (.*)", caplog.text)[1].split(", ")
    assert kept in (["first"], ["middle"], ["first", "middle"], ["middle", "first"])
    assert rows[1].runtime == "onnxruntime" and rows[1].iou > 0.9
    caplog.clear()
    rows = deployment(wide, max_loss=1).write(path, "embedded", "int8")
    assert "stay in float" in caplog.text and rows[1].mean < 0.02, "even where maxF may fall to 0"
    monkeypatch.setattr("u2slim.export.float_layers.MAX_MOVED", 1)
    with pytest.raises(UserError, match=r"differs from torch .* mean 0\.06\d*, mask IoU 0\.0"):
        deployment(wide, max_loss=1).write(path, "embedded", "int8")
    assert not path.exists()
    caplog.clear()
    rows = deployment(Three(), max_loss=-1).write(path, "embedded", "int8")
    assert rows[1].largest < 1e-4
    assert "3 of 3 layers in float" in caplog.text and "more than export.max_loss allows" in caplog.text


def test_int8_fits_its_ranges_to_few_photos_where_most_make_huge_values_for_nothing(tmp_path: Path, caplog):
    """IS-Net's ailment: most photos drive some channels many times as far, where nothing but their sign matters."""
    caplog.set_level("INFO")
    net = Three()
    colours = net.first.weight[4]
    with torch.no_grad():  # a channel of 200 times red less green, so 0 for grey, and nothing that the mask needs
        colours.zero_()
        colours[:2, 1, 1] = 200 * torch.tensor([0.229, -0.224])
        net.first.bias[4] = 200 * (0.485 - 0.456 - 0.01)
    grey = np.repeat(render(0, 0)[0].mean(2, keepdims=True).astype(np.uint8), 3, 2)
    photos = [grey, *(grey.copy() for _ in range(3))]
    for number, photo in enumerate(photos[1:]):
        photo[20 * number : 20 * number + 4, :4] = 200, 0, 0
    made = replace(deployment(net), images=photos, photos=photos, gate=Gate([], photos, max_loss=0.05))
    rows = made.write(tmp_path / "net.onnx", "embedded", "int8")
    by_share = re.findall(r"masks move by (\S+) in the mean.* by ranges of (\d+)%", caplog.text)
    moved = {int(share): float(amount) for amount, share in by_share}
    assert moved[25] < 0.005 < 0.01 < min(moved[100], moved[50])
    assert "stay in float" not in caplog.text and rows[1].mean < 0.005


class ThreeClasses(Three):
    """The same that tells three classes apart."""

    outputs = ("main",)
    classes = 3

    def __init__(self, unused: float = 1.0):
        super().__init__(unused)
        self.labels = {"names": ("a", "b", "c"), "palette": ((0, 0, 0),) * 3}
        self.last = nn.Conv2d(8, 3, 3)
        with torch.no_grad():
            self.last.weight *= 8

    def level(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.mean((2, 3), keepdim=True)


def test_int8_of_classes_is_kept_in_check_by_their_miou(tmp_path: Path, caplog):
    caplog.set_level("INFO")
    whole, path = tmp_path / "whole.onnx", tmp_path / "net.onnx"
    rows = deployment(ThreeClasses(), max_loss=0.1).write(path, "embedded", "int8")  # its classes are noise
    assert "mIoU falls by" in caplog.text and "stay in float" not in caplog.text
    assert rows[1].largest > 0 and rows[1].iou > 0.9
    caplog.clear()
    wide = ThreeClasses(unused=1e4)
    made = deployment(wide, max_loss=0.1)
    made.write(whole, "embedded", "fp32")
    made.write(path, "embedded", "int8")
    kept = re.search(r"these layers stay in float: (.*)", caplog.text)[1].split(", ")
    assert kept in (["first"], ["middle"], ["first", "middle"], ["middle", "first"])
    said = float(re.findall(r"mIoU falls by (-?[\d.]+)", caplog.text)[-1])
    truth, small = (OnnxRuntimeRunner(file) for file in (whole, path))
    hits, either = np.zeros(3), np.zeros(3)
    for image in made.images:
        wanted, got = truth.class_map(image), small.class_map(image)
        hits += [((wanted == k) & (got == k)).sum() for k in range(3)]
        either += [((wanted == k) | (got == k)).sum() for k in range(3)]
    assert said == pytest.approx(1 - np.mean(hits / either), abs=1e-4) and said <= 0.1


def test_layers_of_a_resnet_are_ranked_one_by_one():
    layers = {
        "backbone.conv1": "backbone.conv1",
        "layer1.0.conv2": "layer1.0.conv2",
        "layer1.0.conv2.pointwise": "layer1.0.conv2",
        "layer2.0.downsample.0": "layer2.0.downsample.0",
        "encoder.0.encoder.1.conv": "encoder.0.encoder.1",
        "encoder.0.encoder.1.conv.pointwise": "encoder.0.encoder.1",
        "sides.0": "sides.0",
    }
    assert {name: _layer_of(name) for name in layers} == layers


def test_what_float16_cannot_hold_is_computed_in_float32(tmp_path: Path, monkeypatch):
    net = Three(unused=1e5)
    blob = {"image": np.random.default_rng(0).uniform(0, 255, (1, 3, SIDE, SIDE)).astype(np.float32)}

    def in_half() -> np.ndarray:
        """By onnx's own reference, which has every sum and product in the type that the file says."""
        deployment(net).write(tmp_path / "net.onnx", "embedded", "fp16_compute")
        return ReferenceEvaluator(str(tmp_path / "net.onnx")).run(None, blob)[0]

    with torch.inference_mode():
        expected = net(Normalise()(torch.from_numpy(blob["image"])))[0].sigmoid().numpy()
    np.testing.assert_allclose(in_half(), expected, atol=0.02)
    halves = {node.name for node in onnx.load(tmp_path / "net.onnx").graph.node if node.op_type == "Conv"}
    assert halves == {"first", "middle", "last"}
    monkeypatch.setattr("u2slim.export.half.MARGIN", 1e-9)
    with np.errstate(all="ignore"):
        assert not np.isfinite(in_half()).all(), "or nothing had to stay in float32"
