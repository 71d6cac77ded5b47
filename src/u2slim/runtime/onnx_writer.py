"""Writing a net as an ONNX graph with one input and its mask, or the logits of classes, as its first output."""

import ast
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.models import Net
from u2slim.models.normalise import Normalise
from u2slim.runtime.batch_axis import OPEN, check_pixels, fix_batch, is_open, resize_by_scales
from u2slim.runtime.onnx_rewrites import rewrite
from u2slim.sizes import Size, sides

INPUTS = ("embedded", "external")
OUTPUTS = ("first", "all")


class DeployedNet(nn.Module):
    """Image (B, 3, H, W) to the net's first probability (B, 1, H, W), or to those of all its outputs.

    `embedded` takes RGB 0..255; `external` takes what the net's `Preprocess` gives, the convention of other tools. A
    net that tells classes apart gives its first logits (B, classes, H, W): which is the largest can then be asked at
    any size.
    """

    def __init__(self, net: Net, preprocess: str, outputs: str = "first"):
        super().__init__()
        self.preprocess = Normalise(net.preprocess) if preprocess == "embedded" else nn.Identity()
        self.net = net
        self.count = len(output_names(net, outputs))
        self.has_classes = bool(net.labels)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        logits = self.net(self.preprocess(image_BCHW))[: self.count]
        return tuple(logits if self.has_classes else (output.sigmoid() for output in logits))


def output_names(net: Net, outputs: str) -> list[str]:
    """What a graph calls a net's outputs: `mask`, or `logits` of classes, and with `all` the others by their names."""
    first = "logits" if net.labels else "mask"
    return [first, *net.outputs[1:]] if outputs == "all" else [first]


def write_onnx(
    net: Net,
    size: Size,
    path: Path,
    preprocess: str = "embedded",
    opset: int = 18,
    outputs: str = "first",
    dynamic: bool = False,
    batch: int | None = 1,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `net` as a graph with BatchNorm folded into the convolutions and names that follow its modules.

    Args:
        size: side of the square images that the net was trained for, or [height, width].
        outputs: `first`, one output `mask`, or `all`, with the net's further outputs after it.
        dynamic: leave height and width open, from 32 on, instead of fixing them at `size`.
        batch: so many photos go in at once; None: any number.
        metadata: entries for the file, added to those that name the net, its input, its outputs and the size.

    Raises:
        UserError: an unknown `preprocess` or `outputs`, or photos that together are too large for one call.
    """
    settings = {"preprocess": (preprocess, INPUTS), "outputs": (outputs, OUTPUTS)}
    for setting, (value, known) in settings.items():
        if value not in known:
            raise UserError(f"export.{setting}={value} is not known; choose one of: {', '.join(known)}.")
    height, width = sides(size, "size")
    check_pixels(batch, height, width)
    labels = net.labels
    if net.classes and not labels:
        raise UserError(f"Nobody knows the classes of {net.name}: export a checkpoint, which names them.")
    if labels and outputs != "first":
        raise UserError(f"{net.name} tells classes apart and has one output for use: leave out export.outputs.")
    names = output_names(net, outputs)
    model = _traced(DeployedNet(net, preprocess, outputs).eval(), (height, width), names, opset, dynamic, batch != 1)
    if batch != 1:
        if not is_open(model.graph):
            raise UserError(f"{net.name} computes with the number of photos: leave out export.batch.")
        resize_by_scales(model.graph)
    _rename(model.graph)
    _strip(model)
    rewrite(model)
    entries = {
        "net": net.name,
        "preprocess": preprocess,
        "size": str(height) if height == width else f"{height}x{width}",
        "input": "RGB, 0..255" if preprocess == "embedded" else "normalised",
        "outputs": " ".join(names),
        "precision": "fp32",
    }
    if batch != 1:
        entries["batch"] = OPEN
    if labels:
        entries["classes"] = ",".join(labels["names"])
        entries["palette"] = " ".join(f"#{bytes(colour).hex()}" for colour in labels["palette"])
    entries |= net.preprocess.to_metadata() | dict(metadata or {})
    onnx.helper.set_model_props(model, {f"u2slim.{key}": value for key, value in entries.items()})
    if batch not in (1, None):
        fix_batch(model, batch)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _traced(
    deployed: DeployedNet, size: tuple[int, int], names: list[str], opset: int, dynamic: bool, has_batch: bool
) -> onnx.ModelProto:
    axes = {2: torch.export.Dim("height", min=32), 3: torch.export.Dim("width", min=32)} if dynamic else {}
    if has_batch:  # open; a number is set afterwards, so that graphs for any number are the same
        axes[0] = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            deployed,
            (torch.zeros(2 if has_batch else 1, 3, *size),),  # torch takes an axis of 1 for one that stays 1
            input_names=["image"],
            output_names=names,
            opset_version=opset,
            dynamic_shapes=(axes,) if axes else None,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # as it always is with dynamo=True
    return program.model_proto


def convert(path: Path, write: Callable[[Path, Path], object], precision: str) -> None:
    """Replace a float file of ours by what `write` makes of it, which keeps its metadata but for the precision."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        write(path, small)
        model = onnx.load(small)
    entries = {item.key: item.value for item in onnx.load(path).metadata_props} | {"u2slim.precision": precision}
    onnx.helper.set_model_props(model, entries)
    _strip(model)
    _shorten(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _shorten(graph: onnx.GraphProto) -> None:
    """Keep equal constants once, and call values by numbers: beside weights of 8 bits, names are a third of a file.

    Input, outputs and convolutions keep their names, which tell the module that a weight belongs to.
    """
    fresh = map(str, count())
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    constants: dict[object, onnx.TensorProto] = {}
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        content = values.dtype.str, values.shape, values.tobytes()
        if content not in constants:
            constants[content] = numpy_helper.from_array(values, next(fresh))
        names[constant.name] = constants[content].name
    graph.ClearField("initializer")
    graph.initializer.extend(constants.values())
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [value and (names.get(value) or names.setdefault(value, next(fresh))) for value in values]
        if node.op_type != "Conv":
            node.name = ""


def _rename(graph: onnx.GraphProto) -> None:
    """Name nodes, values and weights by the module they come from: `encoder.0.stem.conv`, `decoder.4.bottom.relu`."""
    taken: set[str] = set()
    names = {value.name: _unique(value.name, taken) for value in (*graph.input, *graph.output)}
    for weight in graph.initializer:
        ours = "constant" if weight.name.startswith("val_") else weight.name.removeprefix("net.")
        names[weight.name] = _unique(ours, taken)
    for node in graph.node:
        node.name = _unique(_origin(node), taken)
        for number, value in enumerate(node.output):
            names.setdefault(value, _unique(node.name, taken) if number else node.name)
    for weight in graph.initializer:
        weight.name = names[weight.name]
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names[value] if value else value for value in values]


def _origin(node: onnx.NodeProto) -> str:
    scopes = next((item.value for item in node.metadata_props if item.key == "pkg.torch.onnx.name_scopes"), "[]")
    modules = [scope.removeprefix("net").lstrip(".") for scope in ast.literal_eval(scopes)[:-1]]
    place = modules[-1] if modules else ""
    kind = node.op_type.lower()
    weight = next((name for name in node.input[1:] if name.endswith(".weight")), None)
    if weight:  # a convolution, whose BatchNorm was folded into it
        return weight.removeprefix("net.").removesuffix(".weight")
    return place if place.rpartition(".")[2] == kind else f"{place}.{kind}".lstrip(".")


def _unique(name: str, taken: set[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}_{number + 1}"
    taken.add(candidate)
    return candidate


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes (stack traces, paths of this machine), which outweigh a small net's weights."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
