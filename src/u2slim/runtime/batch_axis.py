"""The first axis of an ONNX file's input and output: so many photos go through it at once."""

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from u2slim.errors import UserError

if TYPE_CHECKING:
    import onnx

MAX_BATCH = 1024  # no machine gains by more, and a number beyond it is a damaged file's or a slip
MAX_PIXELS = 4096 * 4096  # of the input, of all photos together; the nets here take 320 x 320
OPEN = "open"


def batch_setting(value: object) -> int | None:
    """What `export.batch` says: 1, another number of photos, or None where it is to stay open.

    Raises:
        UserError: it is neither a whole number from 1 to `MAX_BATCH` nor `open`.
    """
    if value == OPEN:
        return None
    if type(value) is not int or not 1 <= value <= MAX_BATCH:
        raise UserError(
            f"export.batch={value}: give the number of photos at once, 1 to {MAX_BATCH}, or `{OPEN}` for any number."
        )
    return value


def check_pixels(batch: int | None, height: int, width: int) -> None:
    """Raise a UserError where a file for so many photos of a size would be refused by whatever reads it."""
    if (batch or 1) * height * width > MAX_PIXELS:
        raise UserError(
            f"export.batch={batch or OPEN}: photos of {width}x{height} would be more than {MAX_PIXELS} pixels at once; "
            f"{MAX_PIXELS // (height * width)} is the most."
        )


def is_open(graph: "onnx.GraphProto") -> bool:
    """Whether any number of photos goes in and as many answers come out; the exporter is silent where none may."""
    return all(value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output))


def fix_batch(model: "onnx.ModelProto", batch: int) -> None:
    """Make a graph of ours with an open batch axis one for so many photos, and say so in its metadata."""
    import onnx

    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    entries = {item.key: item.value for item in model.metadata_props} | {"u2slim.batch": str(batch)}
    onnx.helper.set_model_props(model, entries)


def resize_by_scales(graph: "onnx.GraphProto") -> None:
    """Let each `Resize` of known sides scale these, where the exporter asks for a size that has the batch in it.

    OpenCV 4 reads no size that is computed. What computed it is dropped.
    """
    from onnx import numpy_helper

    values = (*graph.input, *graph.value_info, *graph.output)
    sides = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[2:]] for value in values}
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Resize" or len(node.input) < 4 or node.input[3] in known:
            continue
        before, after = sides.get(node.input[0], []), sides.get(node.output[0], [])
        if prod(before) and prod(after):
            scales = [1, 1, *(_scale(*pair) for pair in zip(before, after, strict=True))]
            name = f"val_scales_of_{node.output[0]}"
            graph.initializer.append(numpy_helper.from_array(np.array(scales, np.float32), name))
            del node.input[2:]
            node.input.append(name)
    drop_unused(graph)


def _scale(before: int, after: int) -> np.float32:
    """The smallest float32 by which `before` reaches `after`: runtimes cut off what lies behind the point."""
    scale = np.float32(after / before)
    return scale if float(scale) * before >= after else np.nextafter(scale, np.float32(np.inf))


def drop_unused(graph: "onnx.GraphProto") -> None:
    """Take out the nodes and constants that no output depends on."""
    used = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
    nodes, constants = kept[::-1], [tensor for tensor in graph.initializer if tensor.name in used]
    graph.ClearField("node")
    graph.ClearField("initializer")
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
