"""ONNX files of our nets as others write them, and what their convolutions must be."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from u2slim.images.preprocess import Preprocess
from u2slim.models import Net
from u2slim.models.rsu import ConvBNReLU
from u2slim.runtime.onnx_writer import DeployedNet

SIDE = 64


def write_as_published(net: Net, path: Path, size: int = SIDE) -> Path:
    """A net as torch's older exporter writes it, its nodes named by the published net's modules.

    The graph takes normalised input, gives all outputs, and has BatchNorm folded. Its weights have numbers for names.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.zeros(1, 3, size, size)
        deployed = DeployedNet(net, "external", "all")
        torch.onnx.export(deployed, (image,), path, dynamo=False, opset_version=13, input_names=["input.1"])
    model = onnx.load(path)
    theirs = {ours: published for published, ours in net.published_modules().items()}
    for node in convolutions(model):
        ours = node.name.removeprefix("/net/").removesuffix("/Conv").replace("/", ".")
        node.name = f"/{theirs[ours].replace('.', '/')}/Conv"
    onnx.save(model, path)
    return path


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in ("Conv", "ConvInteger")]


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def name_by_numbers(model: onnx.ModelProto) -> None:
    """Take the names of nodes, and call each value by a number; list the weights among the inputs, as old files do."""
    graph = model.graph
    names: dict[str, str] = {"": ""}
    for node in graph.node:
        node.name = ""
        for values in (node.input, node.output):
            values[:] = [names.setdefault(value, str(len(names))) for value in values]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names[value.name]
    graph.input.extend(onnx.helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in graph.initializer)


def put_in_another_order(model: onnx.ModelProto) -> None:
    """Let each node come as late as it can, counted from the last output to the first."""
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    done: set[str] = set()
    ordered = []
    waiting = [makers[output.name] for output in graph.output]  # the last is taken first
    while waiting:
        node = waiting[-1]
        missing = [makers[value] for value in node.input if value in makers and value not in done]
        if missing:
            waiting.append(missing[0])
            continue
        waiting.pop()
        if node.output[0] not in done:
            ordered.append(node)
            done.update(node.output)
    graph.ClearField("node")
    graph.node.extend(ordered)


def folded(net: nn.Module) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of each convolution by name, with the BatchNorm behind it in them."""
    found = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            weight_OIKK, bias_O = module.weight.double(), module.bias.double()
            block = net.get_submodule(name.rpartition(".")[0])
            if isinstance(block, ConvBNReLU):
                bn = block.bn
                scale_O = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
                weight_OIKK = weight_OIKK * scale_O[:, None, None, None]
                bias_O = (bias_O - bn.running_mean.double()) * scale_O + bn.bias.double()
            found[name] = weight_OIKK.detach().numpy(), bias_O.detach().numpy()
    return found


def set_weights(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    """Replace a constant by other values."""
    constants(model)[name].CopyFrom(numpy_helper.from_array(values, name))


def write_class_net(path: Path, height: int, width: int) -> Path:
    """A net of four classes: the logits of three are 6 times the photo's colours in 0..1, the last one's is 3."""
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[:3, :, 0, 0] = 6 * np.eye(3)
    node = helper.make_node("Conv", ["image", "weight", "bias"], ["logits"], "conv", kernel_shape=[1, 1])
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, height, width])],
        [numpy_helper.from_array(weight, "weight"), helper.make_tensor("bias", TensorProto.FLOAT, [4], [0, 0, 0, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    plain = Preprocess(height, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), own_maximum=False).to_metadata()
    said = {"preprocess": "external", "size": f"{height}x{width}", "net": "colours"} | plain
    said |= {"classes": "red,green,blue,traffic light", "palette": "#ff0000 #00ff00 #0000ff #000000"}
    helper.set_model_props(model, {f"u2slim.{key}": value for key, value in said.items()})
    onnx.save(model, path)
    return path


def write_plain_net(path: Path, height: int, width: int) -> Path:
    """A net whose mask is the photo's red channel."""
    node = helper.make_node("Conv", ["image", "red"], ["mask"], "conv", kernel_shape=[1, 1])
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, height, width])],
        [helper.make_tensor("red", TensorProto.FLOAT, [1, 3, 1, 1], [1.0, 0.0, 0.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    plain = Preprocess(height, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), own_maximum=False).to_metadata()
    helper.set_model_props(
        model, {"u2slim.preprocess": "external"} | {f"u2slim.{key}": value for key, value in plain.items()}
    )
    onnx.save(model, path)
    return path
