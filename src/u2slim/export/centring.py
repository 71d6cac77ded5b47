"""Values between two convolutions brought to a mean of 0, which changes no mask and leaves less to round.

Fits of low rank leave channels between two factors whose means are up to 400 times their deviations. The bias behind
takes them away again. In 8 bits such a mean takes the whole range, and in 16 bits it multiplies the rounding errors of
the weights that read it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from u2slim.export.calibration import input_blobs, values_of
from u2slim.runtime.onnx_rewrites import EditedGraph, attributes_of

LOOKED_AT = 4  # photos: a mean need not be exact


def centre(path: Path, photos: Sequence[np.ndarray]) -> None:
    """Give each convolution that only a 1x1 convolution reads a bias by which its channels have a mean of 0.

    The 1x1 convolution gets what that takes away as a part of its own bias.

    Args:
        path: a float file of ours, which is changed.
        photos: RGB images of any size, of which the first few are looked at.
    """
    model = onnx.load(path)
    graph = EditedGraph(model)
    known = {name: node for name, node in graph.makers.items() if _is_known(node, graph)}
    pairs = [
        (known[node.input[0]], node)
        for node in known.values()
        if node.input[0] in known and graph.only_reader(node.input[0]) and _sees_one_place(node, graph)
    ]
    if not pairs:
        return
    names = [first.output[0] for first, _ in pairs]
    seen = list(values_of(model, names, input_blobs(path, photos[:LOOKED_AT])))
    shifts: dict[str, np.ndarray] = {}  # of biases, by the node's output: in a chain, a node has two
    for first, second in pairs:
        mean_C = np.mean([values[first.output[0]].mean((0, 2, 3), dtype=np.float64) for values in seen], 0)
        weight_OC = numpy_helper.to_array(graph.constants[second.input[1]])[:, :, 0, 0].astype(np.float64)
        for node, shift_O in ((first, -mean_C), (second, weight_OC @ mean_C)):
            shifts[node.output[0]] = shift_O + shifts.get(node.output[0], 0)
    for name, shift_O in shifts.items():
        _shift_bias(graph, known[name], shift_O)
    graph.finish()
    onnx.save(model, path)


def _is_known(node: onnx.NodeProto, graph: EditedGraph) -> bool:
    return node.op_type == "Conv" and all(name in graph.constants for name in node.input[1:])


def _sees_one_place(node: onnx.NodeProto, graph: EditedGraph) -> bool:
    """Whether each output pixel is of one input pixel, of all channels, and of no padding."""
    attributes = attributes_of(node)
    dims = graph.constants[node.input[1]].dims
    return list(dims[2:]) == [1, 1] and attributes.get("group", 1) == 1 and not any(attributes.get("pads", ()))


def _shift_bias(graph: EditedGraph, node: onnx.NodeProto, shift_O: np.ndarray) -> None:
    """In a constant of its own, as nodes may share one."""
    for name in node.input[2:]:
        shift_O = shift_O + numpy_helper.to_array(graph.constants[name])
    del node.input[2:]
    node.input.append(graph.constant(f"{node.output[0]}.centred_bias", shift_O.astype(np.float32)))
