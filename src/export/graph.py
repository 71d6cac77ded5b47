"""Writing a net as an ONNX graph with one input and the fused mask as its one output."""

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from src.errors import UserError
from src.preprocess import Preprocess

KINDS = ("embedded", "external")


class DeployedNet(nn.Module):
    """Image (1, 3, S, S) to fused probability (1, 1, S, S).

    `embedded` takes RGB 0..255; `external` takes what `Preprocess` gives, the convention of other tools.
    """

    def __init__(self, net: nn.Module, preprocess: str):
        super().__init__()
        self.preprocess = Preprocess() if preprocess == "embedded" else nn.Identity()
        self.net = net

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.net(self.preprocess(image_BCHW))[0].sigmoid()


def write_onnx(net: nn.Module, size: int, path: Path, preprocess: str = "embedded", opset: int = 18) -> None:
    """Write `net` for square images of `size`; the file's metadata name the net, the kind and the size."""
    if preprocess not in KINDS:
        raise UserError(f"export.preprocess={preprocess} is not known; choose one of: {', '.join(KINDS)}.")
    deployed = DeployedNet(net, preprocess).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            deployed,
            (torch.zeros(1, 3, size, size),),
            input_names=["image"],
            output_names=["mask"],
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    _strip(model)
    entries = {"u2slim.net": getattr(net, "name", type(net).__name__), "u2slim.preprocess": preprocess}
    entries |= {"u2slim.size": str(size), "u2slim.input": "RGB, 0..255" if preprocess == "embedded" else "normalised"}
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes (stack traces, paths of this machine), which outweigh a small net's weights."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
