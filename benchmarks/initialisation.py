"""What each initialisation leaves of the published net before any training step: maxF and MAE on a test set.

    python -m benchmarks.initialisation --root DATA --photos DIR [--weights u2netp.pth]

DATA holds ECSSD (all or a part), DIR photos that are none of its images; their masks are not looked at.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from u2slim.compress import init
from u2slim.data.catalog import get_data_set
from u2slim.data.pairs import find_pairs
from u2slim.data.unlabelled import Photos
from u2slim.evaluation.entries import Model, net_model
from u2slim.evaluation.score_sets import score_all, summarise
from u2slim.evaluation.store import Store
from u2slim.models import DepthwiseSeparableConv, GroupedConv, LowRankConv, StandardConv, U2Net

NETS = {
    "grouped, shuffled": {"conv": partial(GroupedConv, shuffle=True)},
    "grouped": {"conv": GroupedConv},
    "dwsep, dense stem": {"conv": DepthwiseSeparableConv, "stem": StandardConv},
    "dwsep": {"conv": DepthwiseSeparableConv},
    "lowrank": {"conv": LowRankConv, "stem": StandardConv},
}
METHODS = [*StandardConv.fills, "lstsq"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--weights", help="the published net; by default downloaded")
    parser.add_argument("--data", default="ecssd")
    parser.add_argument("--images", type=int, help="only so many of the set's")
    parser.add_argument("--count", type=int, default=32, help="photos to learn from")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--reestimate", action="store_true", help="also with BatchNorm re-estimated")
    parser.add_argument("--runtime", default="auto", help="torch, openvino, ...")
    options = parser.parse_args()
    photos = Photos.below(options.photos, 320)
    models: dict[str, Model] = {}
    for net in options.nets:
        for method in options.methods:
            if (net, method) == ("lowrank", "mean"):
                continue
            for reestimate in (False, True) if options.reestimate else (False,):
                torch.manual_seed(0)
                start = perf_counter()
                filled = init.pretrained(
                    U2Net("lite", **NETS[net]),
                    options.weights,
                    method,
                    reestimate,
                    count=options.count,
                    photos=photos,
                )
                name = f"{net} | {method}{', BatchNorm re-estimated' if reestimate else ''}"
                models[name] = net_model(filled.eval(), 320, options.runtime)
                print(f"{name}: {perf_counter() - start:.0f} s", flush=True)
    pairs = {options.data: find_pairs(get_data_set(options.data), options.root)[: options.images]}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "scores.sqlite")
        scored = score_all(models, pairs, store, [True])
        print("| net | init.method | maxF | maxF, set | MAE | S |\n|---|---|---|---|---|---|")
        for name in models:
            scores = summarise(name, scored[name, options.data], store, True).scores
            cells = (f"{scores[key]:.3f}".lstrip("0") for key in ("maxF", "maxF_set", "MAE", "S"))
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
