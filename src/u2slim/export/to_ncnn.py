"""From an ONNX file of ours to a net for ncnn, by pnnx."""

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from u2slim.errors import UserError, missing_extra
from u2slim.export.calibration import Samples
from u2slim.export.ncnn_int8 import quantise_ncnn
from u2slim.export.operators import prepare
from u2slim.runtime.phone_files import write_ncnn_files

# What a net of ours becomes. Another layer is a sign that pnnx took an operator for something else.
LAYERS = frozenset(
    [
        "BinaryOp",
        "Concat",
        "Convolution",
        "ConvolutionDepthWise",
        "Input",
        "Interp",
        "MemoryData",
        "Pooling",
        "ReLU",
        "Sigmoid",
        "Slice",
        "Split",
    ]
)
_COMPLAINT = re.compile(r"^(?:ignore|todo|unsupported|not supported).*", re.MULTILINE)


def to_ncnn(whole: Path, path: Path, precision: str, samples: Samples, metadata: Mapping[str, str]) -> None:
    """Write the ONNX file `whole`, in float32, as `path` (.param) with a .bin and a .json beside it.

    Raises:
        UserError: pnnx is not installed, or does not know an operator, which is named.
    """
    model = onnx.load(whole)
    prepare(model, "ncnn")
    _pool_maxima(model.graph)
    layers, weights = _converted(model, precision == "fp16")
    layers = _renamed(layers, [output.name for output in model.graph.output])
    if precision == "int8":
        layers, weights = quantise_ncnn(whole, layers, weights, samples, metadata)
    write_ncnn_files(path, layers, weights, metadata)


def _pool_maxima(graph: onnx.GraphProto) -> None:
    """Take the maximum of an image by pooling all of it.

    pnnx says that it ignores the axes of ReduceMax, and ncnn then crashes on the layer that comes of it.
    """
    # upstream: not reported as far as known (seen with pnnx 20261020); drop when pnnx knows ReduceMax of ONNX
    for node in graph.node:
        if node.op_type == "ReduceMax":
            sides = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[2:]]
            node.op_type = "MaxPool"
            del node.input[1:]
            node.ClearField("attribute")
            node.attribute.append(onnx.helper.make_attribute("kernel_shape", sides))


def _converted(model: onnx.ModelProto, half: bool) -> tuple[str, bytes]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "net.onnx")
        command = [pnnx_program(), "net.onnx", f"fp16={int(half)}", f"inputshape={shape}".replace(" ", "")]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        said = done.stdout + done.stderr
        if complaint := _COMPLAINT.search(said):
            raise UserError(f"pnnx does not know a part of the net ({complaint[0].strip()}): it was not converted.")
        made = folder / "net.ncnn.param", folder / "net.ncnn.bin"
        if done.returncode or not all(part.is_file() for part in made):
            raise UserError(f"pnnx cannot convert the net: {' '.join(said.split())[-300:]}")
        layers = made[0].read_text()
        kinds = {line.split()[0] for line in layers.splitlines()[2:]}
        if unknown := sorted(kinds - LAYERS):
            raise UserError(f"pnnx makes {', '.join(unknown)} of a part of the net, which ncnn may compute otherwise.")
        return layers, made[1].read_bytes()


def pnnx_program() -> str:
    """Where the package has its program; the package itself would load torch.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec("pnnx")
    if spec is None or spec.origin is None:
        raise missing_extra("export.target=ncnn", "pnnx", "pnnx")
    return str(Path(spec.origin).parent / "pnnx")


def _renamed(layers: str, outputs: list[str]) -> str:
    """With input and outputs named as in the ONNX file, rather than `in0`, `out0`, ..."""
    names = {"in0": "image"} | {f"out{number}": name for number, name in enumerate(outputs)}
    return re.sub(r"(?<= )(?:in0|out\d+)(?=[ \n])", lambda found: names.get(found[0], found[0]), layers)
