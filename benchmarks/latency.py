"""How fast every net answers in every runtime, as a table: python -m benchmarks.latency [--width full]

All nets of a width take turns, one photo at a time, in every runtime; each time is a median, and the table says how
many times as fast it is as the published lite net in OpenCV, which takes its turns too. The weights are random: they
change no time.
"""

import argparse

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.optim.swa_utils import update_bn

from u2slim.cli import prepare_hydra
from u2slim.evaluation.entries import Model, net_model, with_latencies
from u2slim.models import U2Net, build_net
from u2slim.repository import CONFIGS
from u2slim.runtime import ONNX_RUNTIMES

RUNTIMES = (*ONNX_RUNTIMES, "torch")
NETS = ("standard", "grouped", "lowrank", "lite_two_thirds", "lite_half", "lite_l", "lite_m", "lite_s", "dwsep")
BASE = ("lite", "standard", "opencv")


def built(width: str, variant: str) -> U2Net:
    torch.manual_seed(0)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"model={variant}", f"model.width={width}"]).model
    net = build_net(OmegaConf.to_container(config, resolve=True))
    # Random layers shrink what passes through them, down to numbers that processors are slow with.
    update_bn([torch.randn(1, 3, 320, 320)], net)
    return net.eval()


def timed(width: str, size: int, rounds: int, runtimes: list[str], nets: list[str]) -> dict[tuple[str, ...], Model]:
    models = {}
    for name in nets:
        net = built(width, name)
        models |= {(width, name, runtime): net_model(net, size, runtime) for runtime in runtimes}
    if BASE not in models:
        models[BASE] = net_model(built(*BASE[:2]), size, BASE[2])
    return with_latencies(models, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--width", default="lite", choices=["lite", "full"])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds, at least 1")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--nets", nargs="+", choices=NETS, help="default: all nets of the width")
    parser.add_argument("--threads", type=int, help="threads for torch; other runtimes use all cores")
    options = parser.parse_args()
    prepare_hydra()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.nets = options.nets or [net for net in NETS if options.width == "lite" or not net.startswith("lite")]
    if torch.cuda.is_available():
        parser.exit(1, "The table compares runtimes on a CPU: hide the GPU with CUDA_VISIBLE_DEVICES=\n")
    models = timed(options.width, options.size, options.rounds, options.runtimes, options.nets)
    base = models[BASE].facts.milliseconds
    print(f"| net | MB float32 / float16 / int8 | GMAC | {' | '.join(options.runtimes)} |")
    print("|---" * (3 + len(options.runtimes)) + "|")
    for net in options.nets:
        own = [models[options.width, net, runtime].facts for runtime in options.runtimes]
        sizes = " / ".join(f"{own[0].params * bytes_each / 1e6:.1f}" for bytes_each in (4, 2, 1))
        ratios = " | ".join(f"{base / facts.milliseconds:.2f}" for facts in own)
        print(f"| {options.width} {net} | {sizes} | {own[0].gmac:.1f} | {ratios} |")


if __name__ == "__main__":
    main()
