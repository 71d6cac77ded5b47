"""How good a net is after each initialisation, before any training step: maxF and MAE on a test set.

    python -m benchmarks.initialisation --root DATA --photos DIR
    python -m benchmarks.initialisation --root DATA --photos DIR --width full --weights u2net.onnx --images 100
    python -m benchmarks.initialisation --root DATA --photos DIR --net isnet --count 12 --size 768 --keep FOLDER

DATA holds ECSSD (all or a part), DIR photos that are none of its images; their masks are not looked at. At full width
least squares takes seven to twelve minutes a net on two cores, for 12 photos of 768 pixels and 12,000 positions.
"""

import argparse
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from u2slim.compress import init
from u2slim.data.catalog import get_data_set
from u2slim.data.pairs import find_pairs
from u2slim.data.unlabelled import Photos
from u2slim.evaluation.entries import net_model
from u2slim.evaluation.score_sets import score_all, summarise
from u2slim.evaluation.store import Store
from u2slim.models import DepthwiseSeparableConv, GroupedConv, LowRankConv, StandardConv, build_net
from u2slim.zoo import PUBLISHED
from u2slim.zoo.checkpoints import write_net
from u2slim.zoo.records import u2net_of

VARIANTS = {
    "grouped, shuffled": (GroupedConv, {"shuffle": True}),
    "grouped": (GroupedConv, {}),
    "dwsep, dense stem": (DepthwiseSeparableConv, {}),
    "dwsep": (DepthwiseSeparableConv, {}),
    "lowrank": (LowRankConv, {}),
}
DENSE_STEM = ("dwsep, dense stem", "lowrank")  # of U2-Net; IS-Net's first convolution is dense anyway
METHODS = [*StandardConv.fills, "lstsq"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--net", choices=("u2net", "isnet"), default="u2net")
    parser.add_argument("--width", choices=("lite", "full"), default="lite", help="width of U2-Net")
    parser.add_argument("--weights", help="the dense net, by name or file; default: the published one")
    parser.add_argument("--data", default="ecssd")
    parser.add_argument("--images", type=int, help="score only the first N images of the set")
    parser.add_argument("--count", type=int, default=32, help="number of photos to learn from")
    parser.add_argument("--size", type=int, help="side of these photos in pixels; default: the net's")
    parser.add_argument("--pixels", type=int, default=40_000, help="positions of each layer's output to fit")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of solving in turns")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--reestimate", action="store_true", help="also with BatchNorm's statistics measured anew")
    parser.add_argument("--runtime", default="auto", help="torch, openvino, ...")
    parser.add_argument("--keep", type=Path, help="folder for the nets, as checkpoints for further training")
    options = parser.parse_args()
    dense = "isnet-general-use" if options.net == "isnet" else u2net_of(options.width)
    config, size = PUBLISHED[dense].config, PUBLISHED[dense].preprocess.size
    assert config is not None
    photos = Photos.below(options.photos, options.size or size)
    pairs = {options.data: find_pairs(get_data_set(options.data), options.root)[: options.images]}
    print(
        "| net | init.method | seconds | maxF | maxF, set | MAE | S | boundary IoU |\n|---|---|---|---|---|---|---|---|"
    )
    for variant, method, reestimate in product(options.variants, options.methods, (False, True)):
        if (variant, method) == ("lowrank", "mean") or (reestimate and not options.reestimate):
            continue
        if options.net == "isnet" and variant == "dwsep, dense stem":
            continue
        torch.manual_seed(0)
        start = perf_counter()
        filled = init.pretrained(
            build_net(_config(config, variant)),
            options.weights or dense,
            method,
            reestimate,
            count=options.count,
            photos=photos,
            lstsq={"pixels": options.pixels, "rounds": options.rounds},
        ).eval()
        seconds = perf_counter() - start
        name = f"{variant} | {method}{', BatchNorm re-estimated' if reestimate else ''}"
        if options.keep:
            write_net(filled, size, options.keep / f"{filled.name}-{variant}-{method}.ckpt")
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "scores.sqlite")
            scored = score_all({name: net_model(filled, size, options.runtime)}, pairs, store, [True])
            scores = summarise(name, scored[name, options.data], store, True).scores
        cells = (f"{scores[key]:.3f}".lstrip("0") for key in ("maxF", "maxF_set", "MAE", "S", "bIoU"))
        print(f"| {name} | {seconds:.0f} | {' | '.join(cells)} |", flush=True)


def _config(dense: Mapping[str, Any], variant: str) -> dict[str, Any]:
    kind, settings = VARIANTS[variant]
    conv = {"_target_": f"u2slim.models.{kind.__name__}", "_partial_": True, **settings}
    config = {**dense, "conv": conv}
    if "width" in dense and variant in DENSE_STEM:
        config["stem"] = dense["conv"]
    return config


if __name__ == "__main__":
    main()
