"""Smaller numbers in an ONNX file."""

import numpy as np
import onnx
from onnx import numpy_helper

HALF_MAX = 65504.0


def halve_weights(model: onnx.ModelProto) -> list[str]:
    """Store weights as float16 that every runtime widens when it loads the file: half the bytes, computed in float32.

    Kept in float32: single numbers per channel (biases), which weigh nothing, and what float16 cannot hold.

    Returns:
        the names of weights that were too large for float16.
    """
    graph, kept = model.graph, []
    widened = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != onnx.TensorProto.FLOAT or values.ndim < 4 or values.size < 16:
            continue
        if np.abs(values).max() > HALF_MAX:
            kept.append(weight.name)
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        widened.append(onnx.helper.make_node("Cast", [weight.name], [name], name, to=onnx.TensorProto.FLOAT))
    nodes = [*widened, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    return kept
