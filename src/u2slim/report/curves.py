"""The page that compares training runs: every logged curve of each, and a table."""

import base64
import re
import textwrap
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from u2slim.files import write_whole
from u2slim.report.html import COLOURS, write_html
from u2slim.report.runs import NOT_DRAWN, Run

LINES = ("solid", "dashed", "dotted")
STYLE = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # upstream: https://github.com/matplotlib/matplotlib/issues/5907 (closed with this setting); drop when 0 draws all
    "agg.path.chunksize": 10_000,  # in one piece a long curve is more than Agg can hold
}
SMOOTHED_PART = 40
ERRORS = re.compile(r"loss|MAE|MSE|err", re.IGNORECASE)


def write_report(runs: Sequence[Run], folder: Path) -> tuple[list[str], list[Path]]:
    """Write runs.png and runs.html; returns the columns that were drawn and the two files.

    Raises:
        UserError: the folder cannot be written.
    """
    columns = {name for run in runs for name in run.curves}
    panels = sorted((name for name in columns if not NOT_DRAWN.search(name)), key=_rank(columns))
    image, page = folder / "runs.png", folder / "runs.html"
    write_whole(image, lambda partial: draw(runs, panels, partial))
    values = dict(
        panels=panels,
        rates=sorted(name for name in columns if name.endswith("_per_s")),
        rows=[_row(index, run) for index, run in enumerate(runs)],
        part=SMOOTHED_PART,
        left_out=sorted(name for name in columns if re.search(r"side\d+$", name)),
        image=base64.b64encode(image.read_bytes()).decode(),
    )
    write_html(page, "runs.html.j2", values)
    return panels, [image, page]


def _rank(columns: Set[str]) -> Callable[[str], tuple[int, str]]:
    """Training before validation, and in both first the net's answer, then the total."""
    losses = (*sorted(answers(columns)), "loss")
    order = [*(f"train/{name}" for name in losses), "train", *(f"val/{name}" for name in losses), "val"]
    return lambda name: (next((n for n, start in enumerate(order) if name.startswith(start)), len(order)), name.lower())


def answers(columns: Set[str]) -> set[str]:
    """The outputs whose loss is logged in training and in validation: those that nets are used by."""
    both = ({name.removeprefix(part) for name in columns if name.startswith(part)} for part in ("train/", "val/"))
    return set.intersection(*both) - {"loss"}


def is_error(name: str, columns: Set[str]) -> bool:
    """Whether the lower value of a column is the better one."""
    return bool(ERRORS.search(name)) or name.rpartition("/")[2] in answers(columns)


def _row(index: int, run: Run) -> dict[str, Any]:
    """A run's row in the table."""
    cells = {}
    for name, (steps, values) in run.curves.items():
        if name.endswith("_per_s"):
            cells[name] = {"last": f"{np.median(values):.3g}"}
        elif name.startswith("train"):
            cells[name] = {"last": f"{smooth(steps, values)[-1]:.4g}"}
        else:
            cells[name] = {"last": f"{values[-1]:.4g}"}
            if np.isfinite(values).any():
                best = np.nanargmin(values) if is_error(name, run.curves.keys()) else np.nanargmax(values)
                cells[name] |= {"best": f"{values[best]:.4g}", "step": steps[best]}
    last = max(steps[-1] for steps, _ in run.curves.values())
    colour, line = _look(index)
    return {"run": run, "colour": colour, "line": line, "last": last, "cells": cells}


def _look(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], LINES[index // len(COLOURS) % len(LINES)]


def smooth(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of the values within a part of the run's steps to either side.

    Near the first step the mean reaches only as far ahead as there are steps before, so that the first value stays;
    near the last it takes what is there. What is not finite stays, and counts in no mean.
    """
    reach = np.minimum((steps[-1] - steps[0]) // SMOOTHED_PART, steps - steps[0])
    low, high = np.searchsorted(steps, steps - reach), np.searchsorted(steps, steps + reach, "right")
    known = np.isfinite(values)
    sums, counts = (np.append(0, np.cumsum(part)) for part in (np.where(known, values, 0), known))
    means = (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1)
    return np.where(known, means, values)


def draw(runs: Sequence[Run], panels: Sequence[str], path: Path) -> None:
    """A PNG with a panel for each column: the training curves above, two in a row, the others three in a row."""
    wide = sum(name.startswith("train") for name in panels)
    above = -(-wide // 2)
    spots = [(index // 2, index % 2 * 3, 6 if index % 2 == 0 and index == wide - 1 else 3) for index in range(wide)]
    spots += [(above + index // 3, index % 3 * 2, 2) for index in range(len(panels) - wide)]
    names = [textwrap.fill(run.label, 70) for run in runs]
    across = max(1, min(len(runs), 140 // (max(len(line) for name in names for line in name.split("\n")) + 8)))
    legend_lines = -(-len(runs) // across) * max(name.count("\n") + 1 for name in names)
    rows = spots[-1][0] + 1
    last = max(1, *(steps[-1] for run in runs for steps, _ in run.curves.values()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.8 * rows + 0.2 * legend_lines), layout="constrained")
        grid = figure.add_gridspec(rows, 6)
        for name, (row, column, span) in zip(panels, spots, strict=True):
            axes = figure.add_subplot(grid[row, column : column + span], xlim=(-0.02 * last, 1.02 * last))
            _draw_panel(axes, name, runs)
        looks = [_look(index) for index in range(len(runs))]
        handles = [Line2D([], [], linewidth=1.8, color=colour, linestyle=line) for colour, line in looks]
        legend = figure.legend(handles, ["run"] * len(runs), loc="outside upper center", ncols=across, frameon=False)
        for text, label in zip(legend.get_texts(), names, strict=True):  # here `$` and a leading `_` mean nothing
            text.set_text(label)
            text.set_parse_math(False)
        figure.savefig(path, format="png", dpi=160)


def _draw_panel(axes: Axes, name: str, runs: Sequence[Run]) -> None:
    drawn = []
    for index, run in enumerate(runs):
        if name in run.curves:
            steps, values = run.curves[name]
            colour, line = _look(index)
            if name.startswith("train"):
                axes.plot(steps, values, linewidth=0.7, alpha=0.3, color=colour, zorder=1)
                values = smooth(steps, values)
            dots = {"marker": "o", "markersize": 3} if len(steps) <= 30 else {}
            axes.plot(steps, values, linewidth=1.4, color=colour, linestyle=line, **dots)
            drawn.append(values[np.isfinite(values)])
    values = np.concatenate(drawn)
    steep = len(values) > 0 and values.min() > 0 and values.max() > 4 * np.median(values)
    if steep and is_error(name, {column for run in runs for column in run.curves}):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_title(name, fontsize=10, parse_math=False)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
