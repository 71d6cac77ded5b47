"""The convolutions of an ONNX file, in whatever form their weights are stored."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from u2slim.errors import UserError
from u2slim.files import refuse_web_page
from u2slim.runtime.onnx_reader import check_texts, load_beside
from u2slim.runtime.onnx_rewrites import BESIDE, ENLARGED, SUM, TAPS
from u2slim.runtime.packed import widened_model

# What U2-Net, IS-Net and their quantised files are made of, and the arithmetic of sizes that exporters write down.
_OPERATORS = {
    *("Conv", "ConvInteger", "Relu", "MaxPool", "Resize", "Upsample", "Concat", "Add", "Sigmoid"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Identity", "Constant", "Clip"),
    *("Shape", "Slice", "Gather", "Unsqueeze", "Squeeze", "Reshape", "Floor", "Mul", "Div", "Sub", "Max", "ReduceMax"),
}

_REDUCE, _EXPAND = "reduce", "expand"  # of a `LowRankConv`: only `export.conditioning` gives the first a bias
_OTHER_PART = {ENLARGED: BESIDE, BESIDE: ENLARGED, SUM: TAPS, TAPS: SUM, _REDUCE: _EXPAND, _EXPAND: _REDUCE}
_SCALING = ("Cast", "Mul", "Add")  # what makes the outputs of a `ConvInteger` of its sums


@dataclass(frozen=True)
class Convolution:
    """One convolution, its weights in float32.

    Args:
        name: of the node, as far as it tells a module: `stage1.rebnconv1.conv_s1`; otherwise of the weights.
    """

    name: str
    weight_OIKK: np.ndarray
    bias_O: np.ndarray | None
    stride: int
    dilation: int


@dataclass(frozen=True)
class OnnxConvolutions:
    """What there is to know of an ONNX file for filling a net of torch.

    Args:
        convolutions: in the order in which they are computed.
        size: (height, width) of the input, 0 where it is open.
        metadata: the file's entries.
    """

    convolutions: list[Convolution]
    size: tuple[int, int]
    metadata: dict[str, str]


def read_convolutions(path: Path) -> OnnxConvolutions:
    """Read them from a file; float16, packed and 8-bit weights come back in float32.

    Raises:
        UserError: the file is a web page, truncated, lacks its external data, or has operators that no net of
            convolutions like U2-Net has.
    """
    refuse_web_page(path, "a net")
    model = _load(path)
    graph = model.graph
    unknown = Counter(node.op_type for node in graph.node if node.op_type not in _OPERATORS)
    if unknown:
        if "BatchNormalization" in unknown:
            raise UserError(f"{path} has BatchNorms of their own: export it in evaluation mode, which folds them.")
        raise UserError(
            f"{path} has operators that neither U2-Net nor IS-Net has: {', '.join(sorted(unknown)[:4])}. It may run as "
            "an ONNX file, but torch cannot rebuild it."
        )
    try:
        found = _before_rewriting(list(_Reader(graph).convolutions()))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} has a convolution whose weights cannot be read: {error}.") from error
    weights = {tensor.name for tensor in graph.initializer}
    shapes = [value.type.tensor_type.shape.dim for value in graph.input if value.name not in weights]
    sizes = [(dims[2].dim_value, dims[3].dim_value) for dims in shapes if len(dims) == 4]
    metadata = {item.key: item.value for item in model.metadata_props}
    return OnnxConvolutions(found, sizes[0] if sizes else (0, 0), metadata)


def _before_rewriting(found: list[Convolution]) -> list[Convolution]:
    """Our own files' convolutions as the net has them, where `onnx_rewrites` or `export.conditioning` changed them."""
    parts = {convolution.name: convolution for convolution in found}
    whole = []
    for convolution in found:
        name, _, ending = convolution.name.rpartition(".")
        other = parts.get(f"{name}.{_OTHER_PART.get(ending, '')}")
        if other is None:
            whole.append(convolution)
        elif ending == ENLARGED:
            weight = np.concatenate([convolution.weight_OIKK, other.weight_OIKK], 1)
            whole.append(replace(other, name=name, weight_OIKK=weight))
        elif ending == SUM:
            taps_IT = other.weight_OIKK[:, :, 0, 0].T
            whole.append(replace(convolution, name=name, weight_OIKK=taps_IT.reshape(1, -1, 3, 3)))
        elif ending == _REDUCE:
            whole.append(replace(convolution, bias_O=None))
        elif ending == _EXPAND:
            whole.append(replace(convolution, bias_O=_bias_through(other, convolution)))
    return whole


def _bias_through(first: Convolution, second: Convolution) -> np.ndarray | None:
    """The bias of a 1x1 convolution that stands for those of both."""
    if first.bias_O is None:
        return second.bias_O
    bias_O = second.weight_OIKK[:, :, 0, 0].astype(np.float64) @ first.bias_O
    return (bias_O if second.bias_O is None else bias_O + second.bias_O).astype(np.float32)


def _load(path: Path) -> onnx.ModelProto:
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    try:
        model = onnx.load(path, load_external_data=False)
        check_texts(model)
    except Exception as error:  # protobuf raises several types for a damaged file
        raise UserError(
            f"{path} ({size}) is not an ONNX file: truncated, damaged or of another kind. Download it again. "
            f"[{type(error).__name__}]"
        ) from error
    load_beside(model, path)
    try:
        model = widened_model(model)
    except ValueError as error:
        raise UserError(f"{path} cannot be unpacked: {error}. Export it again with export.py.") from error
    if not model.graph.node:
        raise UserError(f"{path} ({size}) holds no net: truncated, damaged or of another kind. Download it again.")
    return model


class _Reader:
    """Finds the numbers behind a graph's convolutions."""

    def __init__(self, graph: onnx.GraphProto):
        self.graph = graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for value in node.input:
                self.readers.setdefault(value, []).append(node)

    def convolutions(self) -> Iterator[Convolution]:
        for node in self.graph.node:
            if node.op_type == "Conv":
                weight = self.value(node.input[1])
                bias = self.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
                yield self._described(node, node.input[1], weight, bias)
            elif node.op_type == "ConvInteger":
                yield self._described(node, node.input[1], *self._quantised(node))

    def value(self, name: str) -> np.ndarray:
        """A constant's numbers, as far as graphs compute them from what is stored: casts and scales."""
        if name in self.stored:
            return numpy_helper.to_array(self.stored[name])
        node = self.makers[name]
        if node.op_type in ("Cast", "Identity"):
            return self.value(node.input[0])
        if node.op_type == "Constant":
            return numpy_helper.to_array(node.attribute[0].t)
        if node.op_type == "DequantizeLinear":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            values, scale = self.value(node.input[0]), self.value(node.input[1])
            return _widened(values, scale, self.value(node.input[2]) if len(node.input) > 2 else None, axis)
        raise ValueError(f"{name} is computed by {node.op_type}")

    def _quantised(self, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray | None]:
        """Of a dynamically quantised convolution: its sums are multiplied by both scales, then a bias is added."""
        zero = self.value(node.input[3]) if len(node.input) > 3 else None
        name = node.input[1]
        scale = self.stored.get(f"{name.removesuffix('_quantized')}_scale")
        if scale is None:
            raise ValueError(f"{name} has no scale")
        weight = _widened(self.value(name), numpy_helper.to_array(scale), zero)
        value, bias = node.output[0], None
        while bias is None and len(readers := self.readers.get(value, [])) == 1 and readers[0].op_type in _SCALING:
            value = readers[0].output[0]
            if readers[0].op_type == "Add":
                bias = next((self._constant(name) for name in readers[0].input if self._is_constant(name)), None)
        return weight, None if bias is None else bias.reshape(-1)

    def _is_constant(self, name: str) -> bool:
        if name in self.stored:
            return True
        node = self.makers.get(name)
        return node is not None and node.op_type in ("Reshape", "Cast", "Identity") and self._is_constant(node.input[0])

    def _constant(self, name: str) -> np.ndarray:
        while name not in self.stored:
            name = self.makers[name].input[0]
        return numpy_helper.to_array(self.stored[name])

    def _described(
        self, node: onnx.NodeProto, weight_name: str, weight: np.ndarray, bias: np.ndarray | None
    ) -> Convolution:
        if len(weight.shape) != 4:
            raise ValueError(f"{weight_name} is of shape {weight.shape}")
        numbers = {attribute.name: attribute.ints for attribute in node.attribute}
        stride, dilation = (int((numbers.get(name) or [1])[0]) for name in ("strides", "dilations"))
        # torch's exporter calls nodes /stage1/rebnconv1/conv_s1/Conv, or Conv_0 in its older versions. Ours calls them
        # encoder.0.stem.conv, and keeps that where it calls weights by numbers.
        module = node.name.strip("/").replace("/", ".")
        name = re.sub(r"\.Conv(_quant)?$", "", module)
        if name == module and (weight_name.endswith((".weight", ".weight_quantized")) or not name):
            name = re.sub(r"\.weight(_quantized)?$", "", weight_name)
        bias = None if bias is None else bias.astype(np.float32)
        return Convolution(name, weight.astype(np.float32), bias, stride, dilation)


def _widened(values: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, axis: int = 0) -> np.ndarray:
    """Whole numbers as those that they stand for; scales are one number, or one a slice along an axis."""
    shape = [1] * values.ndim
    if scale.size > 1:
        shape[axis] = -1
    wide = values.astype(np.float32)
    if zero is not None:
        wide -= zero.astype(np.float32).reshape(shape if zero.size > 1 else ())
    return wide * scale.astype(np.float32).reshape(shape if scale.size > 1 else ())
