"""Numbers of 16 bits in an ONNX file."""

import logging
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from u2slim.export.calibration import largest_values

log = logging.getLogger(__name__)

HALF_MAX = 65504.0
MARGIN = 16  # between the largest activation seen and what float16 holds: other photos, and sums on the way


def store_in_half(whole: Path, small: Path) -> list[str]:
    """Write the float file `whole` with weights in float16, `small`: half the bytes, computed in float32.

    Every runtime widens them when it loads the file. Kept in float32: single numbers per channel (biases), which weigh
    nothing, and what float16 cannot hold.

    Returns:
        the names of weights that were too large for float16.
    """
    model = onnx.load(whole)
    graph, kept = model.graph, []
    widened = []
    for weight in graph.initializer:
        if not _is_many(weight):
            continue
        if (cast := halved(weight)) is not None:
            widened.append(cast)
        else:
            kept.append(weight.name)
    nodes = [*widened, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    onnx.save(model, small)
    if kept:
        log.warning("%d weights are too large for float16 and stay in float32: %s", len(kept), ", ".join(kept[:3]))
    return kept


def halved(weight: onnx.TensorProto) -> onnx.NodeProto | None:
    """Make a convolution's weight one of float16; returned is what widens it.

    Returns:
        None where it stays in float32: it is none, has few numbers, or is too large for float16.
    """
    if not _is_many(weight):
        return None
    values, name = numpy_helper.to_array(weight), weight.name
    if np.abs(values).max() > HALF_MAX:
        return None
    weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
    return onnx.helper.make_node("Cast", [weight.name], [name], name, to=onnx.TensorProto.FLOAT)


def _is_many(weight: onnx.TensorProto) -> bool:
    """Whether a constant is a weight, rather than single numbers per channel."""
    return weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) >= 4 and prod(weight.dims) >= 16


def compute_in_half(whole: Path, small: Path, blobs: Sequence[dict[str, np.ndarray]]) -> list[str]:
    """Write the float file `whole` as one that is computed in float16, `small`, with input and output in float32.

    A node stays in float32 where its inputs or its output came within `MARGIN` of what float16 holds on the given
    inputs, where a weight lies beyond it, and up to the normalised image, whose sums run over many numbers.

    Returns:
        the nodes that stay in float32 for their range.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(whole)
    limits = largest_values(model, blobs)
    limits |= {w.name: float(np.abs(numpy_helper.to_array(w)).max(initial=0)) for w in model.graph.initializer}
    wide = [
        n.name for n in model.graph.node if any(limits.get(v, 0) > HALF_MAX / MARGIN for v in (*n.input, *n.output))
    ]
    first = next(number for number, node in enumerate(model.graph.node) if node.op_type == "Conv")
    before = [node.name for node in model.graph.node[:first]]
    half = convert_float_to_float16(
        model, min_positive_val=6e-8, keep_io_types=True, op_block_list=[], node_block_list=[*before, *wide]
    )
    _skip_detours(half.graph)
    # upstream: https://github.com/microsoft/onnxconverter-common/pull/291 sorts by itself; drop likewise
    ONNXModel(half).topological_sort()
    onnx.save(half, small)
    log.info(
        "fp16_compute: %d of %d nodes stay in float32 for their range%s",
        len(wide),
        len(model.graph.node),
        f": {', '.join(wide[:5])}" if wide else "",
    )
    return wide


def _skip_detours(graph: onnx.GraphProto) -> None:
    """Let a float32 node read what another made; the converter gives it what is left of that after float16."""
    # upstream: https://github.com/microsoft/onnxconverter-common/issues/271, mended there; drop when onnxruntime's
    # float16.py, at 1.31 an older copy, is, too
    nodes = {node.output[0]: node for node in graph.node}  # casts for several readers are there several times
    narrowed = {name: node.input[0] for name, node in nodes.items() if _casts_to(node, onnx.TensorProto.FLOAT16)}
    direct = {
        name: narrowed[node.input[0]]
        for name, node in nodes.items()
        if _casts_to(node, onnx.TensorProto.FLOAT) and node.input[0] in narrowed
    }
    for node in nodes.values():
        node.input[:] = [direct.get(name, name) for name in node.input]
    used = {name for node in nodes.values() if node.output[0] not in direct for name in node.input}
    used |= {output.name for output in graph.output}
    graph.ClearField("node")
    graph.node.extend(node for node in nodes.values() if used.intersection(node.output))


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == kind
