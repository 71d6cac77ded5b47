"""From an ONNX file of ours to a net for LiteRT: by onnx2tf, and in fewer bits by Google's own quantizer."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx
from rich.progress import track

from u2slim.errors import UserError, missing_extra
from u2slim.export.calibration import Samples
from u2slim.export.float_layers import fewest_in_float, range_of
from u2slim.export.operators import prepare
from u2slim.export.quiet import quietly
from u2slim.runtime.phone_files import with_litert_metadata
from u2slim.runtime.phone_runners import LiteRTRunner

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_IN_8_BITS = (*_CONVOLUTIONS, "ADD", "CONCATENATION", "LOGISTIC", "MAX_POOL_2D", "RESIZE_BILINEAR")


def to_litert(whole: Path, path: Path, precision: str, samples: Samples, metadata: Mapping[str, str]) -> None:
    """Write the ONNX file `whole`, in float32, as `path` (.tflite).

    Input and output are (1, H, W, channels). In 8 bits they are whole numbers where the file takes normalised input;
    where it takes RGB 0..255 it normalises in float and both stay in float.

    Raises:
        UserError: a tool is not installed, or does not know an operator, which is named.
    """
    model = onnx.load(whole)
    prepare(model, "litert")
    data = _converted(model, samples.onnx2tf)
    if precision != "fp32":
        data = _in_half(data) if precision == "fp16" else _in_8_bits(whole, data, samples, metadata)
    path.write_bytes(with_litert_metadata(data, metadata))


def onnx2tf_program(program: str) -> str:
    """Where it lies.

    Raises:
        UserError: it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise UserError(
            f"export.target=litert needs {program}: with Python 3.12 or newer python -m venv FOLDER, FOLDER/bin/pip "
            "install onnx2tf, and then export.onnx2tf=FOLDER/bin/onnx2tf."
        )
    return found


def _converted(model: onnx.ModelProto, program: str) -> bytes:
    found = onnx2tf_program(program)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "net.onnx")
        command = [found, "-i", "net.onnx", "-o", "made", "-n"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        made = folder / "made" / "net_float32.tflite"
        if done.returncode or not made.is_file():
            raise UserError(f"onnx2tf cannot convert the net: {' '.join((done.stdout + done.stderr).split())[-300:]}")
        return made.read_bytes()


def _quantizer(data: bytes) -> Any:
    try:
        from ai_edge_quantizer import quantizer
    except ImportError as error:
        raise missing_extra("fp16 and int8 for LiteRT", "ai-edge-quantizer", "litert") from error
    return quantizer.Quantizer(bytearray(data))


def _quantised(quantizer: Any, *ranges: dict) -> bytes:
    with quietly():
        return bytes(quantizer.quantize(*ranges).quantized_model)


def _in_half(data: bytes) -> bytes:
    """With convolutions' weights in float16, which LiteRT widens when it loads them."""
    quantizer = _quantizer(data)
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    for kind in _CONVOLUTIONS:
        quantizer.update_quantization_recipe(".*", kind, config, AlgorithmName.FLOAT_CASTING)
    return _quantised(quantizer)


def _in_8_bits(whole: Path, data: bytes, samples: Samples, metadata: Mapping[str, str]) -> bytes:
    """Full-integer, but for those convolutions that stay in float; see `fewest_in_float`."""
    is_embedded = metadata.get("u2slim.preprocess") == "embedded"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.tflite"
        path.write_bytes(with_litert_metadata(data, metadata))
        ranges = _ranges(path, data, samples)
        names = _convolutions(path)

        def write(at: Path, floats: Collection[str], share: float) -> None:
            quantizer = _quantizer(data)
            _recipe(quantizer, is_embedded, floats)
            chosen = {name: _range(found, share) for name, found in ranges.items()}
            at.write_bytes(with_litert_metadata(_quantised(quantizer, chosen), metadata))

        write(path, *fewest_in_float(whole, path, LiteRTRunner, names, write, samples))
        return path.read_bytes()


def _recipe(quantizer: Any, is_embedded: bool, floats: Collection[str] = ()) -> None:
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    kinds = _IN_8_BITS if is_embedded else (*_IN_8_BITS, "INPUT", "OUTPUT")
    for kind in kinds:
        quantizer.add_static_config(".*", kind, 8, 8)
    outside = [r"preprocess\."] if is_embedded else []
    for pattern in [*outside, *(f"^{re.escape(name)};?$" for name in floats)]:
        for kind in (*_CONVOLUTIONS, "ADD", "CONCATENATION"):
            quantizer.update_quantization_recipe(pattern, kind, None, AlgorithmName.NO_QUANTIZE)


def _ranges(path: Path, data: bytes, samples: Samples) -> dict[str, list[dict]]:
    """What each value ranges over, in each photo."""
    runner = LiteRTRunner(path)
    found: dict[str, list[dict]] = {}
    for photo in track(samples.photos, "ranges of each photo"):
        blob_1HW3 = runner.blob(runner.resized(photo)).transpose(0, 2, 3, 1)
        quantizer = _quantizer(data)
        quantizer.add_static_config(".*", "*", 8, 8)
        with quietly():
            seen = quantizer.calibrate({None: [{"image": blob_1HW3}]}, num_threads=1)
        for name, values in seen.items():
            found.setdefault(name, []).append(values)
    return found


def _range(found: list[dict], share: float) -> dict:
    if not {"min", "max"} <= found[0].keys():
        return found[0]
    low, high = range_of([values["min"] for values in found], [values["max"] for values in found], share)
    return {"min": low, "max": high}


def _convolutions(path: Path) -> list[str]:
    """What each convolution makes: the one name that it has in a LiteRT file."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    names = []
    for operator in graph.operators:
        kind = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        if kind in _CONVOLUTIONS:
            names.append(graph.tensors[operator.outputs[0]].name.decode())
    return names
