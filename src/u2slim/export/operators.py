"""Which operators of a graph a converter for phones is trusted with; others are refused by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from u2slim.errors import UserError
from u2slim.runtime.onnx_rewrites import attributes_of

SMALLEST_HALF = 2.0**-14  # chips take what is below for 0
# Those of our nets' graphs that every target agrees with torch on: tests/export/test_phone_operators.py.
OPERATORS = frozenset(
    [
        "Add",
        "AveragePool",
        "Concat",
        "Conv",
        "Div",
        "Max",
        "MaxPool",
        "Mul",
        "ReduceMax",
        "Relu",
        "Resize",
        "Sigmoid",
        "Slice",
        "Sub",
    ]
)


def prepare(model: onnx.ModelProto, target: str) -> None:
    """Make a graph one that the target's converter and every chip compute rightly.

    The maximum that an image is divided by is kept above 0 by `Max(x, 1)` rather than by `x + 1e-6`, which chips that
    compute in float16 take for 0: a black image would become NaN. Pixels are whole numbers, so that both are the same.

    Raises:
        UserError: the converter has not been tried on an operator, which is named.
    """
    _keep_above_zero(model.graph)
    _check(model, target)


def _keep_above_zero(graph: onnx.GraphProto) -> None:
    tiny = {
        tensor.name
        for tensor in graph.initializer
        if (values := numpy_helper.to_array(tensor)).size == 1 and 0 < values.item() < SMALLEST_HALF
    }
    for node in graph.node:
        if node.op_type == "Add" and tiny.intersection(node.input):
            one = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), f"{node.output[0]}.one")
            graph.initializer.append(one)
            node.op_type, node.input[1] = "Max", one.name


def _check(model: onnx.ModelProto, target: str) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        attributes = attributes_of(node)
        if node.op_type not in OPERATORS:
            reason = "it is not known to be converted rightly"
        else:
            reason = _reason(node, attributes, constants)
        if reason:
            raise UserError(f"{node.op_type} ({node.name or node.output[0]}) has no way to {target}: {reason}.")


def _reason(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Mapping[str, onnx.TensorProto]) -> str:
    """Why a use of an operator is refused; empty: it is not."""
    if node.op_type == "Resize":
        way = attributes.get("mode", b"nearest"), attributes.get("coordinate_transformation_mode", b"half_pixel")
        if way != (b"linear", b"half_pixel") or attributes.get("antialias"):
            return f"mode {way[0].decode()}, {way[1].decode()}, and only linear, half_pixel is tried"
        if not any(name in constants for name in node.input[2:]):
            return "its size is not fixed: leave out export.dynamic"
    if node.op_type == "ReduceMax":
        axes = attributes.get("axes") or [
            axis for name in node.input[1:2] if name in constants for axis in numpy_helper.to_array(constants[name])
        ]
        if sorted(axes) != [2, 3] or not attributes.get("keepdims", 1):
            return f"axes {list(axes)}, and only height and width together are tried"
    if node.op_type == "Concat" and attributes.get("axis") != 1:
        return f"axis {attributes.get('axis')}, and only channels are tried"
    pads = attributes.get("pads", [])
    if any(pads) and node.op_type == "AveragePool":
        return "it pads"
    if list(pads[: len(pads) // 2]) != list(pads[len(pads) // 2 :]):
        return "it pads more on one side"
    return ""
