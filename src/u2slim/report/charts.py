"""The curves of an evaluation as drawings for inlining into a page."""

import io
import math
import re
from collections.abc import Callable

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from u2slim.evaluation.results import Result

HISTOGRAM_BINS = 20
TEXT_COLOUR = "#010203"  # stands for the page's text colour, light or dark, until the drawing is done


def charts(rows: list[Result], colours: dict[str, str], salt: str) -> dict[str, Markup]:
    """Drawings by caption, one line a result in each."""
    rows = [row for row in rows if row.images]
    looks = [{"color": colours[row.model], "linestyle": "-" if row.stretch else (0, (3, 1.5))} for row in rows]

    def precision_recall(axes: Axes) -> None:
        for row, look in zip(rows, looks, strict=True):
            axes.plot(row.curves["recall"], row.curves["precision"], **look)
        axes.set(xlabel="recall", ylabel="precision", xlim=_limits(rows, "recall"), ylim=_limits(rows, "precision"))

    def f_by_threshold(axes: Axes) -> None:
        for row, look in zip(rows, looks, strict=True):
            axes.plot(np.arange(255, -1, -1), row.curves["F"], **look)
        axes.set(xlabel="threshold", ylabel="F", xlim=(0, 255), ylim=_limits(rows, "F"), xticks=[0, 64, 128, 192, 255])

    def iou_histogram(axes: Axes) -> None:
        for row, look in zip(rows, looks, strict=True):
            counts, edges = np.histogram(row.image_ious[np.isfinite(row.image_ious)], HISTOGRAM_BINS, (0, 1))
            axes.stairs(counts, edges, baseline=None, linewidth=matplotlib.rcParams["lines.linewidth"], **look)
        axes.set(xlabel="IoU of one image", ylabel="images", xlim=(0, 1), ylim=(0, None))

    drawings = {
        "Precision over recall": precision_recall,
        "F over threshold": f_by_threshold,
        "Images by IoU": iou_histogram,
    }
    return {caption: _svg(draw, f"{salt} {caption}") for caption, draw in drawings.items()} if rows else {}


def _limits(rows: list[Result], name: str) -> tuple[float, float]:
    """An axis up to 1 that shows all but the few lowest points, which would press the rest into a corner."""
    values = np.concatenate([row.curves[name] for row in rows])
    values = values[np.isfinite(values)]
    low = math.floor(10 * np.percentile(values, 5)) / 10 if len(values) else 0.0
    return min(max(low, 0.0), 0.9), 1.0


def _svg(draw: Callable[[Axes], None], salt: str) -> Markup:
    """A drawing for inlining: text as text in the page's colour, ids that no drawing of another salt has."""
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    style = dict.fromkeys(inks, TEXT_COLOUR) | {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": 9,
        "lines.linewidth": 1.2,
        "axes.grid": True,
        "grid.alpha": 0.15,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    file = io.StringIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        axes.locator_params(nbins=5, steps=[1, 2, 5, 10])
        draw(axes)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT_COLOUR, "currentColor")
    used = set(re.findall(r'#([^")]+)[")]', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, flags=re.DOTALL)  # its rules would hold for the whole page
    svg = re.sub(r' (width|height)="[\d.]+pt"| font-family: [^;]*;', "", svg)
    # Inside attributes only: the numbers at the ticks stay as they are.
    return Markup(re.sub(r'="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg))
