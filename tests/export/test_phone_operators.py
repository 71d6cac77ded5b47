"""Each operator of our nets, at odd sizes, in each runtime of phones beside torch; others are refused by name.

The runtimes are extras, and onnx2tf is a program in an environment of its own: docs/guides/phones.md has the command.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from u2slim.errors import UserError
from u2slim.export.calibration import Gate, Samples
from u2slim.export.onnx_graph import OnnxGraph
from u2slim.export.operators import prepare
from u2slim.export.targets import TARGETS

HEIGHT, WIDTH = 37, 53
ONNX2TF = os.environ.get("U2SLIM_ONNX2TF", "onnx2tf")
MODULES = {"ncnn": ("ncnn", "pnnx"), "litert": ("ai_edge_litert", "ai_edge_quantizer"), "coreml": ("coremltools",)}
TOLERANCE = {"fp32": 1e-4, "fp16": 0.05}


def needs(target: str) -> None:
    if missing := [name for name in MODULES[target] if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is absent: docs/guides/phones.md")
    if target == "litert" and shutil.which(ONNX2TF) is None:
        pytest.skip("onnx2tf is absent: set U2SLIM_ONNX2TF to where its environment has it")


class Net:
    """A graph from an image to a mask, with the operators under test between two convolutions."""

    def __init__(self):
        self.random = np.random.default_rng(3)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def conv(self, value: str, given: int, made: int, side: int = 1, group: int = 1, **attributes) -> str:
        weight = (
            self.random.normal(size=(made, given // group, side, side)) * (2 / (given // group * side * side)) ** 0.5
        )
        bias = self.random.normal(size=made)
        constants = [self.constant(values.astype(np.float32)) for values in (weight, bias)]
        return self.node("Conv", value, *constants, group=group, kernel_shape=[side, side], **attributes)

    def resize(self, value: str, height: int, width: int, channels: int, **attributes) -> str:
        sizes = self.constant(np.array([1, channels, height, width], np.int64))
        ways = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"} | attributes
        return self.node("Resize", value, "", "", sizes, **ways)

    def model(self, value: str, channels: int, preprocess: str = "external") -> onnx.ModelProto:
        """To a mask at the image's size."""
        logits = self.conv(self.resize(value, HEIGHT, WIDTH, channels), channels, 1)
        self.nodes.append(helper.make_node("Sigmoid", [logits], ["mask"], "sigmoid"))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
        mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, HEIGHT, WIDTH])
        graph = helper.make_graph(self.nodes, "net", [image], [mask], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        entries = {"preprocess": preprocess, "size": f"{HEIGHT}x{WIDTH}", "outputs": "mask", "net": "test"}
        entries |= {"mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225", "divisor": "maximum"}
        helper.set_model_props(model, {f"u2slim.{key}": text for key, text in entries.items()})
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True))
        return model


def one_conv(channels: int = 8, **options) -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv(net.conv("image", 3, 8), 8, channels, **options), channels)


def one(kind: str, **attributes) -> onnx.ModelProto:
    net = Net()
    return net.model(net.node(kind, net.conv("image", 3, 8), **attributes), 8)


def of_two(kind: str, channels: int = 8, **attributes) -> onnx.ModelProto:
    net = Net()
    parts = net.conv("image", 3, 8), net.conv("image", 3, 8, 3, pads=[1] * 4)
    return net.model(net.node(kind, *parts, **attributes), channels)


def resized(height: int, width: int) -> onnx.ModelProto:
    net = Net()
    return net.model(net.node("Relu", net.resize(net.conv("image", 3, 8), height, width, 8)), 8)


def normalised() -> onnx.ModelProto:
    """RGB 0..255 by its own maximum, as `models.normalise` writes it."""
    net = Net()
    axes = net.constant(np.array([2, 3], np.int64))
    maxima = net.node("ReduceMax", "image", axes, keepdims=1)
    numbers = [net.constant(np.array([number], np.int64)) for number in range(4)]
    parts = [net.node("Slice", maxima, numbers[n], numbers[n + 1], numbers[1], numbers[1]) for n in range(3)]
    largest = net.node("Max", net.node("Max", *parts[:2]), parts[2])
    three = net.node("Concat", largest, largest, largest, axis=1)
    above = net.node("Add", three, net.constant(np.array(1e-6, np.float32)))
    rows = [np.array(row, np.float32).reshape(1, 3, 1, 1) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    mean, std = map(net.constant, rows)
    x = net.node("Div", net.node("Sub", net.node("Div", "image", above), mean), std)
    return net.model(net.conv(x, 3, 8), 8, "embedded")


CASES = {
    "conv 3x3": lambda: one_conv(side=3, pads=[1] * 4),
    "conv dilated": lambda: one_conv(side=3, pads=[8] * 4, dilations=[8, 8]),
    "conv by halves": lambda: one_conv(side=3, pads=[1] * 4, strides=[2, 2]),
    "conv 7x7 by halves": lambda: one_conv(side=7, pads=[3] * 4, strides=[2, 2]),
    "conv 1x1 by halves": lambda: one_conv(side=1, strides=[2, 2]),
    "conv grouped": lambda: one_conv(side=3, group=2, pads=[1] * 4),
    "conv grouped and dilated": lambda: one_conv(12, side=3, group=4, pads=[2] * 4, dilations=[2, 2]),
    "conv depthwise": lambda: one_conv(side=3, group=8, pads=[1] * 4),
    "conv depthwise and dilated": lambda: one_conv(side=3, group=8, pads=[4] * 4, dilations=[4, 4]),
    "max pool, ceil": lambda: one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "max pool, padded": lambda: one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "average pool": lambda: one("AveragePool", kernel_shape=[4, 4], strides=[4, 4], count_include_pad=1),
    "average pool, overlapping": lambda: one("AveragePool", kernel_shape=[6, 6], strides=[5, 2], count_include_pad=1),
    "resize up": lambda: resized(2 * HEIGHT, 2 * WIDTH),
    "resize up by no whole number": lambda: resized(61, 64),
    "resize down": lambda: resized(19, 27),
    "add": lambda: of_two("Add"),
    "concat": lambda: of_two("Concat", 16, axis=1),
    "relu": lambda: one("Relu"),
    "normalisation": normalised,
}


def images(preprocess: str) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    noise = random.integers(0, 200, (HEIGHT, WIDTH, 3)).astype(np.float32)
    return [noise, np.zeros_like(noise), np.tile(noise[:, :1], (1, WIDTH, 1))]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", MODULES)
def test_an_operator_is_torchs(target: str, case: str, precision: str, tmp_path: Path):
    needs(target)
    if precision == "fp16" and target != "coreml":  # the others compute so in float32
        pytest.skip("computed in float32")
    model, kind = CASES[case](), TARGETS[target]
    whole, path = tmp_path / "whole.onnx", tmp_path / f"net{kind.ending}"
    onnx.save(model, whole)
    entries = {item.key: item.value for item in model.metadata_props}
    kind.convert(whole, path, precision, Samples([], [], Gate([], []), ONNX2TF), entries)
    runner, torchs = kind.runner(path), OnnxGraph(model.graph)
    for image in images(entries["u2slim.preprocess"]):
        blob = runner.blob(image)
        with torch.no_grad():
            expected = torchs(torch.from_numpy(blob)).numpy()
        assert expected.std() > 0.01 or not image.any(), "or nothing is told apart"
        np.testing.assert_allclose(runner.run(blob), expected, atol=TOLERANCE[precision])


REFUSED = {
    "ReduceMean": {"keepdims": 1},
    "ReduceMax": {"keepdims": 1},
    "HardSigmoid": {},
    "AveragePool": {"kernel_shape": [3, 3], "pads": [1] * 4},
    "MaxPool": {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]},
}


@pytest.mark.parametrize("target", MODULES)
@pytest.mark.parametrize("operator", REFUSED)
def test_what_no_converter_was_tried_on_is_refused_by_name(operator: str, target: str):
    net = Net()
    inputs = [net.conv("image", 3, 8)]
    if operator.startswith("Reduce"):
        inputs.append(net.constant(np.array([1], np.int64)))
    value = net.node(operator, *inputs, **REFUSED[operator])
    model = net.model(value, 1 if operator.startswith("Reduce") else 8)
    with pytest.raises(UserError, match=f"{operator} .* has no way to {target}"):
        prepare(model, target)


def test_other_ways_of_resizing_are_refused():
    for way in ({"mode": "nearest"}, {"coordinate_transformation_mode": "align_corners"}):
        net = Net()
        model = net.model(net.resize(net.conv("image", 3, 8), 19, 27, 8, **way), 8)
        with pytest.raises(UserError, match="Resize .* has no way to ncnn: mode"):
            prepare(model, "ncnn")
