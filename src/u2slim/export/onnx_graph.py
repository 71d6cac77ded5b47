"""ONNX graphs as modules of torch, for converters that take nothing but torch."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.runtime.onnx_rewrites import attributes_of

Attributes = Mapping[str, Any]


class OnnxGraph(nn.Module):
    """Computes a graph of the operators that our nets are made of, from its input to its first output.

    Its convolutions are modules by the names of their nodes.

    Args:
        graph: with all sizes known, and weights in float32 or float16.

    Raises:
        UserError: the graph has an operator, or a use of one, that is not known here; it is named.
    """

    def __init__(self, graph: onnx.GraphProto):
        super().__init__()
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.start = next(entry.name for entry in graph.input if entry.name not in constants)
        self.end = graph.output[0].name
        self.steps: list[tuple[Callable[..., Tensor], list[str], str]] = []
        self.kept: dict[str, str] = {}  # the name of a value that is a constant -> the buffer's
        known = {self.start}
        for node in graph.node:
            given = [name for name in node.input if name]
            if node.op_type == "Cast" and given[0] in constants:
                constants[node.output[0]] = constants[given[0]].astype(np.float32)
            elif known.intersection(given):
                self._add(node, constants)
                known.add(node.output[0])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        values = {self.start: x_BCHW}
        for step, inputs, output in self.steps:
            values[output] = step(*(self._value(name, values) for name in inputs))
        return values[self.end]

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor:
        return values[name] if name in values else self.get_buffer(self.kept[name])

    def _add(self, node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> None:
        attributes = attributes_of(node)
        known = [constants.get(name) if name else None for name in node.input]
        if node.op_type == "Conv":
            conv = _convolution(node, attributes, known)
            _place(self, node.name or node.output[0], conv)
            self.steps.append((conv, [node.input[0]], node.output[0]))
            return
        if node.op_type in _ELEMENTWISE:
            for name, value in zip(node.input, known, strict=True):
                if value is not None and name not in self.kept:
                    self.kept[name] = f"constant_{len(self.kept)}"
                    self.register_buffer(self.kept[name], torch.tensor(value), persistent=False)
            self.steps.append((_ELEMENTWISE[node.op_type], list(node.input), node.output[0]))
            return
        if node.op_type not in _SHAPED:
            raise UserError(f"{node.op_type} ({node.name or node.output[0]}) is no operator of our nets' graphs.")
        inputs = [name for name, value in zip(node.input, known, strict=True) if name and value is None]
        step = _SHAPED[node.op_type](node, attributes, known)
        self.steps.append((step, inputs, node.output[0]))


def _convolution(node: onnx.NodeProto, attributes: Attributes, known: list[np.ndarray | None]) -> nn.Conv2d:
    weight_OIKK = known[1]
    if weight_OIKK is None or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise _refused(node, "its weight is computed, or its padding depends on the input")
    group = attributes.get("group", 1)
    conv = nn.utils.skip_init(
        nn.Conv2d,
        weight_OIKK.shape[1] * group,
        weight_OIKK.shape[0],
        weight_OIKK.shape[2:],
        stride=tuple(attributes.get("strides", (1, 1))),
        padding=_padding(node, attributes),
        dilation=tuple(attributes.get("dilations", (1, 1))),
        groups=group,
        bias=len(known) > 2,
    )
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(weight_OIKK))
        if conv.bias is not None:
            conv.bias.copy_(torch.tensor(known[2]))
    return conv


def _padding(node: onnx.NodeProto, attributes: Attributes) -> tuple[int, int]:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        raise _refused(node, "it pads more on one side")
    return top, left


def _refused(node: onnx.NodeProto, reason: str) -> UserError:
    return UserError(f"{node.op_type} ({node.name or node.output[0]}) is not as in our nets' graphs: {reason}.")


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Make it a module of that name, dots included."""
    *parts, last = name.split(".")
    for part in parts:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


def _max_pool(node: onnx.NodeProto, attributes: Attributes, known: list[np.ndarray | None]) -> Callable[..., Tensor]:
    kernel = tuple(attributes["kernel_shape"])
    options: Attributes = {
        "stride": tuple(attributes.get("strides", (1, 1))),
        "padding": _padding(node, attributes),
        "dilation": tuple(attributes.get("dilations", (1, 1))),
        "ceil_mode": bool(attributes.get("ceil_mode", 0)),
    }
    return lambda x: F.max_pool2d(x, kernel, **options)


def _average_pool(
    node: onnx.NodeProto, attributes: Attributes, known: list[np.ndarray | None]
) -> Callable[..., Tensor]:
    if any(_padding(node, attributes)) or attributes.get("ceil_mode", 0):
        raise _refused(node, "it pads")
    kernel, stride = tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", (1, 1)))
    return lambda x: F.avg_pool2d(x, kernel, stride)


def _resize(node: onnx.NodeProto, attributes: Attributes, known: list[np.ndarray | None]) -> Callable[..., Tensor]:
    way = attributes.get("mode", b"nearest"), attributes.get("coordinate_transformation_mode", b"half_pixel")
    if way not in ((b"linear", b"half_pixel"), (b"linear", b"pytorch_half_pixel")) or attributes.get("antialias"):
        raise _refused(node, b" ".join(way).decode())
    scales, sizes = (known[place] if len(known) > place else None for place in (2, 3))
    if sizes is not None:
        height, width = (int(side) for side in sizes[-2:])
        return lambda x: F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    if scales is None or any(side % 1 for side in scales):
        raise _refused(node, "its size is not given as numbers")
    down, across = (int(scale) for scale in scales[-2:])
    return lambda x: F.interpolate(x, (down * x.shape[2], across * x.shape[3]), mode="bilinear", align_corners=False)


def _slice(node: onnx.NodeProto, attributes: Attributes, known: list[np.ndarray | None]) -> Callable[..., Tensor]:
    if len(known) < 4 or any(value is None or value.size != 1 for value in known[1:4]):
        raise _refused(node, "it cuts along more than one axis, or at places that are computed")
    start, end, axis = (int(value.item()) for value in known[1:4] if value is not None)
    return lambda x: x.narrow(axis, start, min(end, x.shape[axis]) - start)


def _reduce_max(node: onnx.NodeProto, attributes: Attributes, known: list[np.ndarray | None]) -> Callable[..., Tensor]:
    axes = attributes.get("axes") or (known[1].tolist() if len(known) > 1 and known[1] is not None else None)
    if axes is None:
        raise _refused(node, "its axes are not given")
    keep = bool(attributes.get("keepdims", 1))
    return lambda x: torch.amax(x, tuple(axes), keepdim=keep)


def _concat(node: onnx.NodeProto, attributes: Attributes, known: list[np.ndarray | None]) -> Callable[..., Tensor]:
    return lambda *parts: torch.cat(parts, attributes["axis"])


_ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Div": torch.div,
    "Max": lambda *parts: reduce(torch.maximum, parts),
    "Mul": torch.mul,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sub": torch.sub,
}
_SHAPED: dict[str, Callable[..., Callable[..., Tensor]]] = {
    "AveragePool": _average_pool,
    "Concat": _concat,
    "MaxPool": _max_pool,
    "ReduceMax": _reduce_max,
    "Resize": _resize,
    "Slice": _slice,
}
