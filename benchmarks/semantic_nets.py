"""How fast the nets for classes answer in every runtime, as a table: python -m benchmarks.semantic_nets

Median milliseconds of one image, from RGB to the logits at the image's own size, and how many times as fast that is as
PSPNet in the same runtime. In each runtime the nets take turns. `icnet, half` is ICNet without half
of its filters (pip install torch-pruning). The weights are random: they change no time. With a GPU there
is a row of frames per second of torch on it, in half precision and batches of one.
"""

import argparse
import time
from statistics import median

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim.swa_utils import update_bn

from u2slim.compress.prune import prune, widths
from u2slim.data.labels import CITYSCAPES
from u2slim.evaluation.entries import net_model, with_latencies
from u2slim.evaluation.results import ModelFacts
from u2slim.models import build_net
from u2slim.repository import CONFIGS
from u2slim.runtime import ONNX_RUNTIMES

RUNTIMES = ("torch", *ONNX_RUNTIMES)
NETS = ("pspnet", "icnet", "icnet, half", "fcn", "parsenet")


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = build_net(OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{name.split(',')[0]}.yaml")))
    if name.endswith("half"):
        prune(net, {layer: round(width / 2) for layer, width in widths(net).items()})
    # Random layers shrink what passes through them, down to numbers that processors are slow with.
    update_bn([torch.randn(2, 3, 128, 128)], net)
    net.labels = {"names": CITYSCAPES.names, "palette": CITYSCAPES.palette}
    return net.eval()


def timed(
    nets: dict[str, nn.Module], runtime: str, size: tuple[int, int], rounds: int, wanted: dict[str, np.ndarray]
) -> dict[str, ModelFacts]:
    """What the nets cost in a runtime; `wanted` gets the first runtime's logits, for the others."""
    models = {name: net_model(net, size, runtime) for name, net in nets.items()}
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.float32)
    for name, model in models.items():
        logits = model.runner.infer(image)
        error = np.abs(logits - wanted.setdefault(name, logits)).max() / np.abs(wanted[name]).max()
        if runtime != "torch":
            print(f"{name} in {runtime}: {error:.1e} of the largest logit off", flush=True)
    facts = {name: model.facts for name, model in with_latencies(models, rounds).items()}
    print(f"{runtime}: " + ", ".join(f"{name} {fact.milliseconds:.0f} ms" for name, fact in facts.items()), flush=True)
    return facts


@torch.inference_mode()
def frames_per_second(net: nn.Module, size: tuple[int, int], rounds: int = 50) -> float:
    """Of images that lie on the GPU, up to the map of classes there."""
    net = net.to("cuda", torch.half, memory_format=torch.channels_last)
    image = torch.randn(1, 3, *size, device="cuda", dtype=torch.half).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(10 + rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        net(image)[0].argmax(1)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 1 / median(seconds[10:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, at least 1")
    parser.add_argument("--runtimes", nargs="*", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    options = parser.parse_args()
    nets, size = {name: built(name) for name in options.nets}, tuple(options.size)
    gpu = torch.cuda.is_available()
    if gpu and options.runtimes:
        parser.exit(1, "The table compares runtimes on a CPU: give --runtimes alone, or hide the GPU.\n")
    if gpu:
        for name, net in nets.items():
            print(f"{name}: {frames_per_second(net, size):.1f} frames per second, {torch.cuda.get_device_name()}")
        return
    wanted: dict[str, np.ndarray] = {}
    runtimes = sorted(options.runtimes, key=RUNTIMES.index)  # torch first
    tables = {runtime: timed(nets, runtime, size, options.rounds, wanted) for runtime in runtimes}
    print(f"| {size[0]}x{size[1]} | M parameters | GMAC | {' | '.join(tables)} |")
    print("|---" * (3 + len(tables)) + "|")
    for name in nets:
        facts = next(iter(tables.values()))[name]
        cells = " | ".join(cell(table, name) for table in tables.values())
        print(f"| {name} | {facts.params / 1e6:.2f} | {facts.gmac:.1f} | {cells} |")


def cell(table: dict[str, ModelFacts], name: str) -> str:
    own = table[name].milliseconds
    return f"{own:.0f}" + (f" ({table['pspnet'].milliseconds / own:.1f}x)" if "pspnet" in table else "")


if __name__ == "__main__":
    main()
