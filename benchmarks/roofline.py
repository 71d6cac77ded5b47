"""What part of this machine's speed each runtime reaches: python -m benchmarks.roofline [--nets NAME ...] > FILE

The machine's peak is the best of PyTorch's float32 matrix products, its bandwidth that of copying more than any cache
holds. A net cannot take less time than its multiply-accumulates at that peak, nor less than moving its weights and
activations once each, as a runtime does that fuses nothing. The bound is the larger of the two. All runtimes take
turns. The last columns tell where onnxruntime's time goes, by kind of operator.
"""

import argparse
import json
import tempfile
from collections import Counter
from math import prod
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
import onnxruntime
import torch

from u2slim.evaluation.entries import open_models, with_latencies
from u2slim.runtime import ONNX_RUNTIMES
from u2slim.runtime.packed import widened_model
from u2slim.zoo.fetch import NETS as SHIPPED

NETS = ("u2netp", "lite-two-thirds", "lite-half", "lite-l", "lite-m", "lite-s", "lite-dwsep", "isnet-s")
KINDS = ("Conv", "Resize", "Concat", "MaxPool")  # the operators that take time; activations are fused into convolutions


def peak_gflops(side: int = 2048, rounds: int = 8) -> float:
    """The most 1e9 floating-point operations a second of products of square float32 matrices."""
    left, right = torch.randn(2, side, side)
    return max(2 * side**3 / seconds_of(lambda: left @ right) / 1e9 for _ in range(rounds))


def bandwidth_gb(megabytes: int = 512, rounds: int = 8) -> float:
    """The most 1e9 bytes a second that are read and written together."""
    source = torch.ones(megabytes * 2**18)
    target = torch.empty_like(source)
    return max(2 * source.nbytes / seconds_of(lambda: target.copy_(source)) / 1e9 for _ in range(rounds))


def seconds_of(work) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def bytes_moved(path: Path) -> int:
    """What all operators read and write for one image in float32, each value once for each that reads it."""
    graph = onnx.shape_inference.infer_shapes(widened_model(onnx.load(path)), data_prop=True).graph
    sizes = {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes[value.name] = prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    fused = ("Relu", "Sigmoid", "Cast", "DequantizeLinear")  # done where a value is made
    nodes = [node for node in graph.node if node.op_type not in fused]
    return 4 * sum(sizes.get(name, 0) for node in nodes for name in (*node.input, *node.output))


def shares(path: Path, threads: int | None, rounds: int = 5) -> dict[str, float]:
    """The part of onnxruntime's time that each of `KINDS` takes."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    options.intra_op_num_threads = threads or 0
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            widened_model(onnx.load(path)).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        entry = session.get_inputs()[0]
        image = np.random.default_rng(0).integers(0, 256, entry.shape).astype(np.float32)
        for _ in range(rounds):
            session.run(None, {entry.name: image})
        events = json.loads(Path(session.end_profiling()).read_text())
    taken: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["args"]["op_name"]
            taken[next((kind for kind in KINDS if kind in name), "others")] += event["dur"]
    return {kind: taken[kind] / taken.total() for kind in (*KINDS, "others")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--nets", nargs="+", default=list(NETS), metavar="NAME", help="ONNX files, or shipped nets by name"
    )
    parser.add_argument("--runtimes", nargs="+", choices=ONNX_RUNTIMES, default=list(ONNX_RUNTIMES))
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds, at least 1")
    options = parser.parse_args()
    peak, bandwidth = peak_gflops(), bandwidth_gb()
    print(f"{torch.get_num_threads()} threads: {peak:.0f} GFLOP/s in float32, {bandwidth:.1f} GB/s\n")
    head = "net", "GMAC", "MB moved", "bound, ms", *options.runtimes, *(f"in {kind}" for kind in (*KINDS, "others"))
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    for name in options.nets:
        path = Path(name) if name.endswith(".onnx") else SHIPPED / f"{name}.onnx"
        models = {runtime: open_models({runtime: str(path)}, runtime)[runtime] for runtime in options.runtimes}
        models = with_latencies(models, options.rounds)
        gmac, moved = models[options.runtimes[0]].facts.gmac, bytes_moved(path)
        bound = max(2 * gmac / peak, moved / bandwidth / 1e9)
        cells = [name, f"{gmac:.1f}", f"{moved / 1e6:.0f}", f"{1000 * bound:.0f}"]
        for model in models.values():
            taken = model.facts.milliseconds
            cells.append(f"{taken:.0f} ({1e5 * bound / taken:.0f} %)")
        cells += [f"{100 * share:.0f} %" for share in shares(path, torch.get_num_threads()).values()]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
