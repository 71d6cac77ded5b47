"""Bytes against accuracy, ours and peers: python -m benchmarks.bytes --metrics metrics.json --out bytes.png

`metrics.json` is what eval.py wrote of nets on ECSSD and DUTS-TE. Other peers' numbers are those that their papers
publish for the whole sets; those of eval.py are of the samples at hand. A few thousandths between the two say nothing.
"""

import argparse
import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# MB of the file as published, or four bytes a parameter; MAE on DUTS-TE and on ECSSD.
PEERS = {
    "U²-Net": (176.0, 0.044, 0.033),
    "U²-Net lite": (4.7, 0.054, 0.041),
    "CSNet": (0.56, 0.074, 0.064),
    "LMFNet": (3.24, 0.059, 0.054),
    "KD-SCFNet": (3.2, 0.035, 0.035),
    "CTDNet-lite": (1.8, 0.044, None),
    "SANet": (9.2, 0.054, None),
}
SETS = ("DUTS-TE", "ECSSD")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--metrics", required=True, help="the metrics.json that eval.py wrote")
    parser.add_argument("--out", required=True, help="the picture to write")
    options = parser.parse_args()
    content = json.loads(Path(options.metrics).read_text())
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for column, (axes, name) in enumerate(zip(figure.subplots(1, 2), SETS, strict=True), 1):
        for peer, numbers in PEERS.items():
            if numbers[column] is not None:
                mark(axes, peer, numbers[0], numbers[column], measured=False)
        for result in content["results"]:
            if result["data"].startswith(name):
                megabytes = content["models"][result["model"]]["megabytes"]
                mark(axes, result["model"], megabytes, result["MAE"], measured=True)
        axes.set(xscale="log", xlabel="MB of the file", ylabel="MAE", title=name)
        axes.margins(0.15, 0.25)  # for the names
        axes.grid(alpha=0.3)
    figure.suptitle(
        "Filled: measured here, on samples. Hollow: as published, on the whole sets. Lower left is better.", fontsize=10
    )
    figure.savefig(options.out, dpi=110)


def mark(axes: Axes, name: str, megabytes: float, mae: float, measured: bool) -> None:
    """A point with its name, slanted, since many nets lie close together: below what was measured, above the others."""
    colour, marker, face = ("C0", "s", "C0") if measured else ("0.5", "o", "none")
    axes.plot([megabytes], [mae], marker=marker, color=colour, markerfacecolor=face, linestyle="none")
    at, side = ((-3, -4), {"ha": "right", "va": "top"}) if measured else ((3, 4), {"ha": "left", "va": "bottom"})
    style = {"fontsize": 7, "color": colour, "rotation": 45, "rotation_mode": "anchor"}
    axes.annotate(name, (megabytes, mae), at, textcoords="offset points", **style, **side)


if __name__ == "__main__":
    main()
