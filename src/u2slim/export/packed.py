"""Weights of 2 to 8 bits in an ONNX file, where a net's weights lie on grids of so few steps."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from u2slim.export.half import halved
from u2slim.runtime.packed import DOMAIN

log = logging.getLogger(__name__)

MAX_CODE = 127  # of 8 bits with a sign
TOLERANCE = 1e-3  # of a step, by which a weight may be off the grid: folding a BatchNorm rounds to float32
NODE_BYTES = 32  # by which a node `Unpack` and its names outweigh those of a float16 weight, rounded up
_PROBES = 16  # weights of a row that are tried on all grids at once
# What `Conv` takes where a file says nothing. These words would weigh as much as all nodes that unpack.
_USUAL = {"group": 1, "auto_pad": b"NOTSET", "strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0]}

# The form in standard operators, by which onnxruntime and onnx run a packed file without this package.
UNPACK = """
<opset_import: ["": 13], domain: "u2slim">
Unpack <shape> (planes, scales) => (weight)
{
    first = Constant <value_ints = [0]> ()
    last = Constant <value_ints = [-1]> ()
    end = Constant <value_ints = [9]> ()
    inner = Constant <value_ints = [2]> ()
    column = Constant <value_ints = [-1, 1, 1, 1]> ()
    two = Constant <value_float = 2.0> ()
    places = Constant <value = float[8] {1, 2, 4, 8, 16, 32, 64, 128}> ()
    worths = Constant <value = float[7, 1, 1] {1, 2, 4, 8, 16, 32, 64}> ()
    sides = Constant <value_ints: ints = @shape> ()
    wide = Cast <to = 1> (planes)
    bytes = Unsqueeze (wide, inner)
    moved = Div (bytes, places)
    floored = Floor (moved)
    bits = Mod <fmod = 1> (floored, two)
    digits = Slice (bits, first, last, first)
    signs = Slice (bits, last, end, first)
    size = Shape (digits)
    count = Gather (size, first)
    worth = Slice (worths, first, count, first)
    parts = Mul (digits, worth)
    sum = ReduceSum <keepdims = 1> (parts, first)
    negative = Mul (sum, signs)
    positive = Sub (sum, negative)
    padded = Sub (positive, negative)
    line = Reshape (padded, last)
    length = ReduceProd <keepdims = 1> (sides)
    whole = Slice (line, first, length, first)
    code = Reshape (whole, sides)
    steps = Cast <to = 1> (scales)
    factor = Reshape (steps, column)
    weight = Mul (code, factor)
}
"""


@dataclass(frozen=True)
class Grid:
    """A weight as whole numbers times the scale of their row.

    Args:
        code_OK: the numbers, a row for each output channel.
        scale_O: in float32. Rounded to float16 they move masks where a sum and its bias nearly cancel.
        bits: the fewest that hold the numbers and their signs.
    """

    code_OK: np.ndarray
    scale_O: np.ndarray
    bits: int

    def planes(self) -> np.ndarray:
        """The numbers as bytes (bits, count / 8): from the lowest bit of their sizes to the highest, then the signs.

        Each plane has a bit of each number, the first in the lowest bit of its first byte. So sizes are small numbers
        wherever weights are, and what compresses files on their way finds more to do.
        """
        size = np.abs(self.code_OK).ravel()
        digits = [(size >> digit & 1).astype(np.uint8) for digit in range(self.bits - 1)]
        return np.packbits([*digits, (self.code_OK < 0).ravel()], axis=1, bitorder="little")


def find_grid(weight_OIKK: np.ndarray) -> Grid | None:
    """The grid of fewest steps that a weight lies on: w = scale * code, with a scale for each output channel.

    For each row it is the smallest m of 1 to 127 by which w / (max|w| / m) are whole numbers.

    Returns:
        None where a row lies on none.
    """
    weight_OK = weight_OIKK.reshape(len(weight_OIKK), -1).astype(np.float64)
    largest_O = np.abs(weight_OK).max(1)
    if not np.isfinite(largest_O).all():
        return None
    part_OK = weight_OK / np.where(largest_O, largest_O, 1)[:, None]
    steps = np.arange(1, MAX_CODE + 1)
    # Some weights of each row on all grids first, then all weights on the few grids that are left.
    fits_OM = _are_whole(part_OK[:, :_PROBES, None] * steps)
    step_O = np.where(largest_O, 0, 1)
    for step in steps:
        rows = np.flatnonzero(fits_OM[:, step - 1] & (step_O == 0))
        step_O[rows[_are_whole(part_OK[rows] * step)]] = step
    if not step_O.all():
        return None
    code_OK = np.round(part_OK * step_O[:, None])
    # All weights of a row tell its scale, in the sense of least squares.
    scale_O = (weight_OK * code_OK).sum(1) / np.maximum((code_OK**2).sum(1), 1)
    bits = max(2, int(step_O.max()).bit_length() + 1)
    return Grid(code_OK.astype(np.int8), scale_O.astype(np.float32), bits)


def _are_whole(values: np.ndarray) -> np.ndarray:
    """Whether all values along the second axis are whole numbers."""
    whole: np.ndarray = np.logical_and.reduce(np.abs(values - np.round(values)) <= TOLERANCE, 1)
    return whole


def store_packed(whole: Path, small: Path) -> dict[int, int]:
    """Write the float file `whole` with each convolution's weight in as few bits as it takes, `small`.

    A weight on no grid, or one that float16 makes as small, is stored in float16. Biases stay in float32.

    Returns:
        how many weights have how many bits.
    """
    model = onnx.load(whole)
    graph = model.graph
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    made: list[onnx.NodeProto] = []
    kept: list[onnx.TensorProto] = []
    counts: dict[int, int] = {}
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        is_weight = weight.name in weights and weight.data_type == onnx.TensorProto.FLOAT and values.ndim == 4
        grid = find_grid(values) if is_weight and values.size else None
        if grid is not None and (tensors := _tensors(weight.name, grid, values.size)):
            names = [tensor.name for tensor in tensors]
            made.append(onnx.helper.make_node("Unpack", names, [weight.name], domain=DOMAIN, shape=values.shape))
            kept += tensors
            counts[grid.bits] = counts.get(grid.bits, 0) + 1
            continue
        bits = 32
        if (cast := halved(weight)) is not None:
            made.append(cast)
            bits = 16
        kept.append(weight)
        if is_weight:
            counts[bits] = counts.get(bits, 0) + 1
    nodes = [*made, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    _leave_out_the_usual(graph)
    if any(node.domain for node in made):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
        model.functions.append(_function(model))
    onnx.save(model, small)
    log.info("packed: %s", ", ".join(f"{count} weights in {bits} bits" for bits, count in sorted(counts.items())))
    return counts


def _tensors(name: str, grid: Grid, size: int) -> list[onnx.TensorProto]:
    """Planes and scales of a weight; none where float16 makes it as small."""
    arrays = {f"{name}.planes": grid.planes(), f"{name}.scales": grid.scale_O}
    if sum(array.nbytes for array in arrays.values()) + NODE_BYTES >= 2 * size:
        return []
    return [numpy_helper.from_array(array, called) for called, array in arrays.items()]


def _function(model: onnx.ModelProto) -> onnx.FunctionProto:
    function = parser.parse_function(UNPACK)
    [opset] = (entry.version for entry in model.opset_import if entry.domain == "")
    function.opset_import[0].version = opset
    return function


def _leave_out_the_usual(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Conv":
            said = [item for item in node.attribute if onnx.helper.get_attribute_value(item) != _USUAL.get(item.name)]
            node.ClearField("attribute")
            node.attribute.extend(said)
