"""Graphs that compute the same in less time: what no runtime does by itself.

Where each gain was measured: docs/lab/export.md.
"""

from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from u2slim.runtime.batch_axis import drop_unused

# What a convolution's name gets where it became two.
ENLARGED, BESIDE = "enlarged", "beside"  # a 1x1 convolution of two inputs, one of which was enlarged before
TAPS, SUM = "taps", "sum"  # a 3x3 convolution to one channel


def rewrite(model: onnx.ModelProto) -> None:
    """Make both changes wherever they fit; names are those of our modules, shapes are known as far as they are fixed.

    A convolution becomes two, and its node's name with an ending is that of each.
    """
    graph = EditedGraph(model)
    for node in list(model.graph.node):
        if node.op_type == "Conv" and (weight := graph.constants.get(node.input[1])) is not None:
            weight_OIKK = numpy_helper.to_array(weight)
            _narrow_before_enlarging(graph, node, weight_OIKK)
            _one_channel_by_taps(graph, node, weight_OIKK)
    graph.finish()


class EditedGraph:
    """A graph that is being changed, with its constants, who makes and reads each value, and channels."""

    def __init__(self, model: onnx.ModelProto):
        self.model, self.graph = model, model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.readers = Counter(name for node in self.graph.node for name in node.input)
        self.readers.update(output.name for output in self.graph.output)
        self.instead: dict[str, list[onnx.NodeProto]] = {}  # by a node's first output, what takes its place

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        inferred = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        return {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.value_info
        }

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def only_reader(self, name: str) -> bool:
        return self.readers[name] == 1

    def finish(self) -> None:
        nodes = [new for node in self.graph.node for new in self.instead.get(node.output[0], [node])]
        constants = list(self.constants.values())
        self.graph.ClearField("node")
        self.graph.node.extend(nodes)
        self.graph.ClearField("initializer")
        self.graph.initializer.extend(constants)
        drop_unused(self.graph)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """What a node says, by name."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _narrow_before_enlarging(graph: EditedGraph, conv: onnx.NodeProto, weight_OIKK: np.ndarray) -> None:
    """Let a 1x1 convolution take its two inputs apart, the enlarged one before it is enlarged.

    A 1x1 convolution and bilinear resizing may change places, as the weights of each pixel's neighbours add up to 1.
    So a quarter of the pixels have to be multiplied, and fewer channels resized.
    """
    concat = graph.makers.get(conv.input[0])
    if weight_OIKK.shape[2:] != (1, 1) or concat is None or concat.op_type != "Concat" or len(concat.input) != 2:
        return
    attributes, resize = attributes_of(conv), graph.makers.get(concat.input[0])
    if attributes.get("group", 1) != 1 or {1, *attributes.get("strides", ())} != {1} or any(attributes.get("pads", ())):
        return
    if resize is None or resize.op_type != "Resize" or attributes_of(concat)["axis"] != 1:
        return
    if attributes_of(resize).get("mode") != b"linear":
        return
    if not all(graph.only_reader(name) for name in (conv.input[0], concat.input[0])):
        return
    before, after = (graph.shapes.get(name, []) for name in (resize.input[0], resize.output[0]))
    outputs = len(weight_OIKK)
    if len(before) != 4 or not all(before[1:] + after[1:]) or before[2:] == after[2:] or outputs >= before[1]:
        return
    sizes = graph.constants.get(resize.input[3]) if len(resize.input) > 3 and resize.input[3] else None
    name, (first, second) = conv.name, (f"{conv.name}.{ending}" for ending in (ENLARGED, BESIDE))
    small = helper.make_node(
        "Conv",
        [resize.input[0], graph.constant(f"{first}.weight", weight_OIKK[:, : before[1]])],
        [first],
        first,
        **attributes,
    )
    large = onnx.NodeProto()
    large.CopyFrom(resize)
    large.input[0], large.output[0] = first, f"{name}.resize"
    if sizes is not None:
        channels = numpy_helper.to_array(sizes).copy()
        channels[1] = outputs
        large.input[3] = graph.constant(f"{name}.sizes", channels)
    beside = helper.make_node(
        "Conv",
        [concat.input[1], graph.constant(f"{second}.weight", weight_OIKK[:, before[1] :]), *conv.input[2:]],
        [second],
        second,
        **attributes,
    )
    total = helper.make_node("Add", [large.output[0], second], list(conv.output), f"{name}.add")
    graph.instead[resize.output[0]] = [small, large]
    graph.instead[conv.output[0]] = [beside, total]


def _one_channel_by_taps(graph: EditedGraph, conv: onnx.NodeProto, weight_OIKK: np.ndarray) -> None:
    """Let a 3x3 convolution to one channel be a 1x1 convolution to nine, and the sum of these, each moved to its place.

    Runtimes compute channels in blocks of 8 to 24, so that one channel takes as long as that many.
    """
    outputs, inputs, *window = weight_OIKK.shape
    attributes = attributes_of(conv)
    if outputs != 1 or inputs < 16 or window != [3, 3] or attributes.get("group", 1) != 1:
        return
    if {1, *attributes.get("strides", ()), *attributes.get("dilations", ())} != {1}:
        return
    first, second = (f"{conv.name}.{ending}" for ending in (TAPS, SUM))
    places_1933 = np.eye(9, dtype=np.float32).reshape(1, 9, 3, 3)
    taps_9I11 = weight_OIKK[0].reshape(-1, 9).T[:, :, None, None]
    graph.instead[conv.output[0]] = [
        helper.make_node(
            "Conv", [conv.input[0], graph.constant(f"{first}.weight", taps_9I11)], [first], first, kernel_shape=[1, 1]
        ),
        helper.make_node(
            "Conv",
            [first, graph.constant(f"{second}.weight", places_1933), *conv.input[2:]],
            list(conv.output),
            second,
            **attributes,
        ),
    ]
