"""Exported graphs: their names, outputs, open sizes and smaller weights, computed by onnxruntime beside torch."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from src.errors import UserError
from src.export import check_parity, write_onnx
from src.models import DepthwiseSeparableConv
from src.preprocess import Preprocess
from src.runtime.graph import read_graph
from tests.conftest import random_net

SIDE = 64


@pytest.fixture(scope="module")
def net():
    return random_net(conv=DepthwiseSeparableConv)


def sevenfold(net: torch.nn.Module, image_13HW: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        return [logits.sigmoid().numpy() for logits in net(Preprocess()(torch.from_numpy(image_13HW)))]


def test_names_follow_the_modules_and_metadata_say_what_the_file_is(net, tmp_path: Path):
    write_onnx(net, SIDE, tmp_path / "a.onnx", metadata={"weights": "a.ckpt, step 7"})
    model = onnx.load(tmp_path / "a.onnx")
    names = {node.name: node for node in model.graph.node}
    assert len(names) == len(model.graph.node)
    modules = dict(net.named_modules())
    convolutions = [node for node in names.values() if node.op_type == "Conv"]
    # One for each of the net's, so BatchNorm is folded, and no side head but those that the mask is made of.
    assert len(convolutions) == sum(isinstance(module, torch.nn.Conv2d) for module in modules.values())
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
    }
    assert str(Path.cwd()).encode() not in (tmp_path / "a.onnx").read_bytes()


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


def test_fp16_halves_the_file_and_keeps_what_float16_cannot_hold(tmp_path: Path):
    net = random_net(conv=DepthwiseSeparableConv)
    with torch.no_grad():  # the same function, with one weight that float16 takes for infinity
        net.sides[0].weight *= 1e7
        net.sides[0].bias *= 1e7
        net.fuse.weight[:, 0] /= 1e7
    images = [np.random.default_rng(n).integers(0, 256, (SIDE, SIDE, 3), np.uint8) for n in range(2)]
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    write_onnx(net, SIDE, whole)
    write_onnx(net, SIDE, half, precision="fp16")
    stored = {weight.name: weight for weight in onnx.load(half).graph.initializer}
    assert stored["sides.0.weight"].data_type == onnx.TensorProto.FLOAT
    pointwise = stored["encoder.0.encoder.0.conv.pointwise.weight.half"]
    original = {weight.name: weight for weight in onnx.load(whole).graph.initializer}
    expected = numpy_helper.to_array(original[pointwise.name.removesuffix(".half")]).astype(np.float16)
    np.testing.assert_array_equal(numpy_helper.to_array(pointwise), expected)
    weights = sum(numpy_helper.to_array(weight).nbytes for weight in original.values())
    assert sum(numpy_helper.to_array(weight).nbytes for weight in stored.values()) < 0.6 * weights
    rows = check_parity(net, half, images, SIDE, tolerance=0.05, least_iou=0.98, repeats=1)
    assert [row.runtime for row in rows] == ["torch", "opencv", "onnxruntime"]
    with pytest.raises(UserError, match="have an IoU of .* less than export.least_iou=1.01"):
        check_parity(net, half, images, SIDE, tolerance=0.05, least_iou=1.01, repeats=1)
