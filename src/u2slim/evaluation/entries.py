"""What can be scored: nets from any file, and folders of ready-made masks."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import torch
from torch.utils.flop_counter import FlopCounterMode

from u2slim.data.data_set import DataSet
from u2slim.errors import UserError
from u2slim.evaluation.results import ModelFacts
from u2slim.files import user_path
from u2slim.images.preprocess import Preprocess
from u2slim.images.read import EXTENSIONS
from u2slim.images.refine import Refine
from u2slim.models import Net
from u2slim.runtime import Runner, check_runtime, net_runner
from u2slim.runtime.packed import widened_model
from u2slim.runtime.phone_files import net_bytes
from u2slim.sizes import Size, sides
from u2slim.zoo import NetHandle, open_net

# Which input of a convolution are its weights, by the operator's name.
_WEIGHT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_MULTIPLY_OTHERWISE = ("ConvTranspose", "Einsum", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")


@dataclass(frozen=True)
class Model:
    """A net that makes masks, which may be refined at the photo's size, or else the folder that has them."""

    facts: ModelFacts
    runner: Runner | None = None
    folder: Path | None = None
    refine: Refine | None = None

    def fingerprint(self) -> str:
        if self.runner is None:
            return "masks"
        return self.runner.fingerprint() + (f" {self.refine}" if self.refine else "")

    def mask_files(self, data_set: DataSet) -> dict[str, Path]:
        """The ready-made masks of a set by name: those in `folder/SET/`, else in `folder/masks/`, else in `folder`."""
        inside = {path.name.lower(): path for path in sorted(self.folder.iterdir()) if path.is_dir()}
        homes = (inside.get(name) for name in (data_set.name, data_set.title.lower(), "masks"))
        home, found = next(filter(None, homes), self.folder), {}
        for path in sorted(home.iterdir()):
            if path.suffix.lower() in EXTENSIONS and path.is_file():
                if path.stem in found:
                    raise UserError(
                        f"{home} holds {found[path.stem].name} and {path.name}; leave only the masks there."
                    )
                found[path.stem] = path
        return found


def open_models(
    what: str | Sequence[str] | Mapping[str, str], runtime: str = "auto", preprocess: Preprocess | None = None
) -> dict[str, Model]:
    """Models by name, from files, published nets (`u2net`, `u2netp`), `last`, or folders of masks.

    A mapping gives the names; otherwise they come from the files, as short as tells them apart.

    Args:
        what: the files or names.
        runtime: that runs them.
        preprocess: what the input of those ONNX files is made of that do not say it.

    Raises:
        UserError: a file is missing or not what its ending says, the runtime cannot run it, or none of them needs the
            `preprocess`.
    """
    check_runtime(runtime)
    if not isinstance(what, list | tuple | Mapping):
        what = [what]
    if not what or not all(str(item).strip() for item in (what.values() if isinstance(what, Mapping) else what)):
        raise UserError("models= names nothing to score.")
    if not isinstance(what, Mapping):
        what = [str(open_net(item).path()) if item == "last" else str(item) for item in what]
        what = dict(zip(_short_names(what), what, strict=True))
    handles = {name: _found(str(item)) for name, item in what.items()}
    if preprocess is not None:
        silent = [name for name, handle in handles.items() if handle and handle.is_silent()]
        if not silent:
            raise UserError(
                "mean, std and scale: each of these nets states how its input is normalised; leave them out."
            )
        handles |= {name: open_net(handles[name], preprocess) for name in silent}
    return {name: _open(str(what[name]), handle, runtime) for name, handle in handles.items()}


def net_model(net: Net, size: Size, runtime: str = "auto", megabytes: float | None = None) -> Model:
    """A net in memory; `megabytes` is its weights' size unless its file's is given."""
    weights = sum(t.numel() * t.element_size() for t in net.state_dict().values() if t.is_floating_point())
    facts = ModelFacts(sum(p.numel() for p in net.parameters()), megabytes or weights / 1e6, net_gmac(net, size))
    return _with(facts, net_runner(net, size, runtime))


def net_gmac(net: Net, size: Size) -> float:
    """1e9 multiply-accumulates of one image of that size, counted without computing anything."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        copy.deepcopy(net).to("meta")(torch.empty(1, 3, *sides(size, "size"), device="meta"))
    return counter.get_total_flops() / 2e9


def onnx_facts(path: Path, size: Size | None = None) -> ModelFacts:
    """Parameters and multiply-accumulates of an ONNX net; None for what its graph does not say.

    Args:
        path: the file.
        size: what it runs at where its input is open.
    """
    model = widened_model(onnx.load(path))
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer if tensor.dims}
    if size is not None:
        _settle_size(model.graph, *sides(size, "size"))
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = weights | {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    # Weights in 16 or 8 bits are widened by a node, whose output has their shape.
    counted = [
        prod(shapes.get(node.output[0], [0, 0])[1:]) * prod(shapes.get(node.input[_WEIGHT[node.op_type]], [0, 0])[1:])
        for node in graph.node
        if node.op_type in _WEIGHT
    ]
    is_all = all(counted) and not any(node.op_type in _MULTIPLY_OTHERWISE for node in graph.node)
    params = sum(prod(dims) for dims in weights.values())
    return ModelFacts(params, path.stat().st_size / 1e6, sum(counted) / 1e9 if counted and is_all else None)


def _settle_size(graph: onnx.GraphProto, height: int, width: int) -> None:
    """Give the image that goes in this size, where its sides are open."""
    stored = {tensor.name for tensor in graph.initializer}
    for entry in graph.input:
        dims = entry.type.tensor_type.shape.dim
        if entry.name not in stored and len(dims) == 4:
            for dim, side in zip(dims[2:], (height, width), strict=True):
                dim.dim_value = dim.dim_value or side


def with_latencies(models: Mapping[str, Model], repeats: int) -> dict[str, Model]:
    """The same models with the median time of one image, each at its own size.

    All take turns in each of `repeats` rounds after one to warm up, so that what else the machine does hits all.
    """
    seconds = {name: [] for name, model in models.items() if model.runner}
    for _ in range(repeats + 1 if repeats else 0):
        for name, times in seconds.items():
            runner = models[name].runner
            image = np.random.default_rng(0).integers(0, 256, (*runner.size, 3)).astype(np.float32)
            start = time.perf_counter()
            runner.infer(image)
            times.append(time.perf_counter() - start)
    medians = {name: 1000 * median(times[1:]) for name, times in seconds.items() if times[1:]}
    return {
        name: replace(model, facts=replace(model.facts, milliseconds=medians.get(name)))
        for name, model in models.items()
    }


def _found(item: str) -> NetHandle | None:
    """A net, or None for a folder."""
    if user_path(item).is_dir():
        return None
    try:
        return open_net(item)
    except UserError as error:
        raise UserError(f"{error} A folder of ready-made masks can be scored, too.") from error


def _open(item: str, handle: NetHandle | None, runtime: str) -> Model:
    if handle is None:
        return Model(ModelFacts(runtime="masks"), folder=user_path(item))
    if handle.phone is not None:
        runner = handle.runner(runtime)
        return _with(ModelFacts(megabytes=net_bytes(handle.phone) / 1e6), runner)
    if handle.is_runtime_file and runtime != "torch":
        runner = handle.runner(runtime)  # first, as it refuses what cannot be read
        return _with(onnx_facts(handle.path(), runner.size), runner)
    path, net = handle.path(), handle.net()
    is_net_alone = path.suffix in (".pth", ".onnx")  # a checkpoint may hold a training, too
    megabytes = path.stat().st_size / 1e6 if is_net_alone else None
    return net_model(net, net.preprocess.size, runtime, megabytes)


def _with(facts: ModelFacts, runner: Runner) -> Model:
    return Model(replace(facts, runtime=runner.runtime), runner)


def _short_names(items: Sequence[str]) -> list[str]:
    """The ends of paths, without endings and `checkpoints` folders, as long as it takes to tell them apart."""
    paths = [user_path(item) for item in items]
    bare = [path if path.is_dir() else path.with_suffix("") for path in paths]
    # a.ckpt and a.onnx keep their endings.
    ends = [short if bare.count(short) == 1 else path for short, path in zip(bare, paths, strict=True)]
    parts = [[part for part in end.parts if part != "checkpoints"] for end in ends]
    names = []
    for path, own in zip(paths, parts, strict=True):
        depth = 2 if path.suffix == ".ckpt" else 1  # the run's name, because its checkpoints' are all alike
        while depth < len(own) and sum(other[-depth:] == own[-depth:] for other in parts) > 1:
            depth += 1
        names.append(str(Path(*own[-depth:])))
    if len(set(names)) < len(names):
        raise UserError(f"models= names {next(name for name in names if names.count(name) > 1)} twice; name it once.")
    return names
