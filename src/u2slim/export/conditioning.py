"""Channels between two convolutions, rewritten so that rounding costs less. No mask changes.

Fits of low rank leave two ailments there. Factors can be up to 60 times as large as their product, and so are rounding
errors. And channels can have means of up to 400 times their deviations, which the bias behind takes away again. In
8 bits such a mean takes the whole range, and in 16 bits it multiplies the errors of the weights that read it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from u2slim.export.calibration import input_blobs, values_of
from u2slim.models.least_squares import balanced
from u2slim.runtime.onnx_rewrites import TAPS, EditedGraph, attributes_of

LOOKED_AT = 4  # photos: a mean need not be exact

Pair = tuple[onnx.NodeProto, onnx.NodeProto]  # a convolution and the only reader of its output, one as well


def condition(path: Path, photos: Sequence[np.ndarray]) -> None:
    """Balance each two convolutions without anything between, and centre what a 1x1 convolution reads.

    Args:
        path: a float file of ours, which is changed.
        photos: RGB images of any size, of which the first few are looked at.
    """
    model = onnx.load(path)
    _balance_all(EditedGraph(model))
    _centre(EditedGraph(model), input_blobs(path, photos[:LOOKED_AT]))
    onnx.save(model, path)


def _pairs(graph: EditedGraph) -> list[Pair]:
    """Those that can be changed, but for sums of taps, which nets are read back by."""
    known = {name: node for name, node in graph.makers.items() if _is_known(node, graph)}
    return [
        (known[node.input[0]], node)
        for node in known.values()
        if node.input[0] in known and graph.only_reader(node.input[0]) and not node.input[0].endswith(f".{TAPS}")
    ]


def _balance_all(graph: EditedGraph) -> None:
    for first, second in _pairs(graph):
        if len(first.input) > 2 and _sees_one_place(second, graph):
            _move(graph, first, second, _values(graph, first.input[2]))
        _balance(graph, first, second)
    graph.finish()


def _balance(graph: EditedGraph, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    """Mix the channels between, so that both convolutions' weights are as small as their product allows.

    A bias of the first is one more input.
    """
    if any(attributes_of(node).get("group", 1) != 1 for node in (first, second)):
        return
    weight_MIKK, weight_OMKK = (_values(graph, node.input[1]) for node in (first, second))
    inputs_MJ = weight_MIKK.reshape(len(weight_MIKK), -1)
    if has_bias := len(first.input) > 2:
        inputs_MJ = np.concatenate([inputs_MJ, _values(graph, first.input[2])[:, None]], 1)
    outputs_PM = np.moveaxis(weight_OMKK, 1, -1).reshape(-1, len(weight_MIKK))
    if len(weight_MIKK) > min(inputs_MJ.shape[1], len(outputs_PM)):
        return
    inputs_MJ, outputs_MP = (made.numpy() for made in balanced(torch.tensor(inputs_MJ), torch.tensor(outputs_PM.T)))
    if has_bias:
        inputs_MJ, bias_M = inputs_MJ[:, :-1], inputs_MJ[:, -1]
        _set(graph, first, 2, bias_M)
    _set(graph, first, 1, inputs_MJ.reshape(weight_MIKK.shape))
    outputs_OKKM = outputs_MP.T.reshape(len(weight_OMKK), *weight_OMKK.shape[2:], -1)
    _set(graph, second, 1, np.moveaxis(outputs_OKKM, -1, 1))


def _centre(graph: EditedGraph, blobs: Sequence[dict[str, np.ndarray]]) -> None:
    """Bring the mean of each channel that only a 1x1 convolution reads to 0."""
    pairs = [(first, second) for first, second in _pairs(graph) if _sees_one_place(second, graph)]
    names = [first.output[0] for first, _ in pairs]
    seen = list(values_of(graph.model, names, blobs)) if pairs else []
    for first, second in pairs:
        mean_C = np.mean([values[first.output[0]].mean((0, 2, 3), dtype=np.float64) for values in seen], 0)
        _move(graph, first, second, mean_C)
    graph.finish()


def _move(graph: EditedGraph, first: onnx.NodeProto, second: onnx.NodeProto, amount_C: np.ndarray) -> None:
    """Take from the channels between two convolutions, and add what that is behind the second, which is 1x1."""
    behind_O = _values(graph, second.input[1])[:, :, 0, 0] @ amount_C
    for node, shift in ((first, -amount_C), (second, behind_O)):
        _set(graph, node, 2, sum((_values(graph, bias) for bias in node.input[2:]), shift))


def _is_known(node: onnx.NodeProto, graph: EditedGraph) -> bool:
    return node.op_type == "Conv" and all(name in graph.constants for name in node.input[1:])


def _sees_one_place(node: onnx.NodeProto, graph: EditedGraph) -> bool:
    """Whether each output pixel is of one input pixel, of all channels, and of no padding."""
    attributes = attributes_of(node)
    dims = graph.constants[node.input[1]].dims
    return list(dims[2:]) == [1, 1] and attributes.get("group", 1) == 1 and not any(attributes.get("pads", ()))


def _values(graph: EditedGraph, name: str) -> np.ndarray:
    return numpy_helper.to_array(graph.constants[name]).astype(np.float64)


def _set(graph: EditedGraph, node: onnx.NodeProto, place: int, values: np.ndarray) -> None:
    """A convolution's weight (1) or bias (2), in a constant of its own, as nodes may share one."""
    name = f"{node.output[0]}.conditioned_{('weight', 'bias')[place - 1]}"
    node.input[:] = [*node.input[:place], graph.constant(name, values.astype(np.float32)), *node.input[place + 1 :]]
