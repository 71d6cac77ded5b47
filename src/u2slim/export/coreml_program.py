"""What is in a Core ML file, computed here: Apple's own runtime is on Macs and phones alone."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from u2slim.errors import UserError, missing_extra
from u2slim.export.quiet import quietly
from u2slim.images.preprocess import Preprocess
from u2slim.runtime.file_runner import FileRunner
from u2slim.runtime.onnx_reader import Graph
from u2slim.runtime.phone_files import graph_of
from u2slim.sizes import Size

Values = dict[str, Any]


class CoreMLProgram:
    """The program in a .mlpackage, computed here operator by operator, in the types that it says.

    That shows what the converter wrote down, and not what Apple's compiler and chips make of it.

    Raises:
        UserError: it has an operator that is not known here.
    """

    def __init__(self, path: Path):
        with quietly():
            ct = coremltools()
            from coremltools.converters.mil.frontend.milproto.load import load

            model = ct.models.MLModel(str(path), skip_model_load=True)
            self.spec = model.get_spec()
            program = load(self.spec, self.spec.specificationVersion, file_weights_dir=model.weights_dir)
        self.metadata = dict(self.spec.description.metadata.userDefined)
        self.function = program.functions["main"]

    @torch.no_grad()
    def __call__(self, blob_13HW: np.ndarray) -> np.ndarray:
        values: Values = {"image": torch.from_numpy(np.ascontiguousarray(blob_13HW))}
        for operation in self.function.operations:
            name = operation.outputs[0].name
            if operation.op_type.startswith("const"):
                value = operation.outputs[0].val
                if value is None:
                    value = operation.materialized_val_inference()
                values[name] = value
                continue
            if operation.op_type not in _OPERATORS:
                raise UserError(f"{operation.op_type} ({name}) is no operator that our nets have in Core ML.")
            inputs = {
                key: [values[item.name] for item in given] if isinstance(given, list | tuple) else values[given.name]
                for key, given in operation.inputs.items()
                if given is not None
            }
            values[name] = _OPERATORS[operation.op_type](inputs)
        answer: np.ndarray = values[self.function.outputs[0].name].float().numpy()
        return answer


class CoreMLRunner(FileRunner):
    """Runs a .mlpackage by `CoreMLProgram`, slowly."""

    runtime = "MIL by torch"

    @staticmethod
    def read(path: Path, size: Size | None, preprocess: Preprocess | None) -> Graph:
        return graph_of(path, os.fsencode(path), CoreMLProgram(path).metadata, size)

    def load(self, data: bytes, streams: int, threads: int | None) -> None:
        self.program = CoreMLProgram(Path(os.fsdecode(data)))

    def run(self, blob_B3HW: np.ndarray) -> np.ndarray:
        return np.concatenate([self.program(blob_3HW[None]) for blob_3HW in blob_B3HW])


def coremltools() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import coremltools as package
        import coremltools.optimize.coreml
    except ImportError as error:
        raise missing_extra("export.target=coreml", "coremltools", "coreml") from error
    return package


def _tensor(value: Any, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(np.asarray(value)).to(like.dtype)


def _numbers(value: Any) -> list[int]:
    return [int(number) for number in np.asarray(value).ravel()]


def _conv(given: Values) -> Tensor:
    x, pads = given["x"], _numbers(given["pad"])
    bias = _tensor(given["bias"], x) if given.get("bias") is not None else None
    x = F.pad(x, (pads[2], pads[3], pads[0], pads[1])) if given["pad_type"] == "custom" else x
    settings = _numbers(given["strides"]), 0, _numbers(given["dilations"]), int(given["groups"])
    weight = _tensor(given["weight"], x)
    # Sums are wider than float16 on every chip, and here ten times as fast.
    return F.conv2d(x.float(), weight.float(), None if bias is None else bias.float(), *settings).to(x.dtype)


def _max_pool(given: Values) -> Tensor:
    x, pads = given["x"], _numbers(given["pad"])
    if pads[::2] != pads[1::2] or given["pad_type"] != "custom":
        raise UserError("max_pool pads more on one side: not as in our nets.")
    settings = _numbers(given["kernel_sizes"]), _numbers(given["strides"]), pads[::2]
    return F.max_pool2d(x, *settings, ceil_mode=bool(given["ceil_mode"]))


def _avg_pool(given: Values) -> Tensor:
    if any(_numbers(given["pad"])) or given.get("ceil_mode", False):
        raise UserError("avg_pool pads: not as in our nets.")
    return F.avg_pool2d(given["x"], _numbers(given["kernel_sizes"]), _numbers(given["strides"]))


def _upsample(given: Values) -> Tensor:
    x = given["x"]
    sides = [
        round(side * float(given[f"scale_factor_{axis}"]))
        for side, axis in zip(x.shape[2:], ("height", "width"), strict=True)
    ]
    return F.interpolate(x, sides, mode="bilinear", align_corners=bool(given["align_corners"]))


def _slice(given: Values) -> Tensor:
    x, ends = given["x"], given.get("end_mask")
    begins, stops = _numbers(given["begin"]), _numbers(given["end"])
    open_ends = [False] * x.dim() if ends is None else [bool(end) for end in np.asarray(ends)]
    return x[tuple(slice(b, None if is_open else e) for b, e, is_open in zip(begins, stops, open_ends, strict=True))]


def _pair(operator: Callable[..., Tensor]) -> Callable[[Values], Tensor]:
    def apply(given: Values) -> Tensor:
        like = given["x"] if isinstance(given["x"], Tensor) else given["y"]
        return operator(_tensor(given["x"], like), _tensor(given["y"], like))

    return apply


def _cast(given: Values) -> Tensor:
    kinds = {"fp16": torch.float16, "fp32": torch.float32}
    cast: Tensor = given["x"].to(kinds[str(given["dtype"])])
    return cast


_OPERATORS: dict[str, Callable[[Values], Tensor]] = {
    "add": _pair(torch.add),
    "avg_pool": _avg_pool,
    "cast": _cast,
    "concat": lambda given: torch.cat(given["values"], int(given["axis"])),
    "conv": _conv,
    "max_pool": _max_pool,
    "maximum": _pair(torch.maximum),
    "mul": _pair(torch.mul),
    "real_div": _pair(torch.div),
    "reduce_max": lambda given: torch.amax(given["x"], _numbers(given["axes"]), bool(given["keep_dims"])),
    "relu": lambda given: torch.relu(given["x"]),
    "sigmoid": lambda given: torch.sigmoid(given["x"]),
    "slice_by_index": _slice,
    "sub": _pair(torch.sub),
    "upsample_bilinear": _upsample,
}
