"""One table of an evaluation in every form that people paste it into."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from u2slim.evaluation.results import COSTS, LOWER_IS_BETTER, ModelFacts, Result, columns
from u2slim.evaluation.score_sets import Scored
from u2slim.evaluation.scoring import IMAGE_SCORES
from u2slim.evaluation.store import Store
from u2slim.files import write_whole

HEAD = ("model", "min-max", "images")


def write_tables(folder: Path, models: Mapping[str, ModelFacts], results: Sequence[Result]) -> None:
    """`metrics.json`, `table.md`, `table.tex` and `table.csv`: the same numbers, whole in JSON and CSV."""
    forms = {"metrics.json": as_json, "table.md": as_markdown, "table.tex": as_latex, "table.csv": as_csv}
    for name, form in forms.items():
        write_whole(folder / name, _writer(form(models, results)))


def as_terminal(models: Mapping[str, ModelFacts], results: Sequence[Result]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    shown = columns(results)
    for name in (*HEAD, *shown, *COSTS.values()):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for data, group in _by_data(results):
        table.add_row(f"[italic]{data}", *[""] * (len(table.columns) - 1))
        for cells, best in _rows(models, group, shown):
            cells = [escape(cell) for cell in cells]
            table.add_row(*(f"[bold]{cell}" if bold else cell for cell, bold in zip(cells, best, strict=True)))
        table.add_section()
    return table


def as_markdown(models: Mapping[str, ModelFacts], results: Sequence[Result]) -> str:
    shown = columns(results)
    names = ("data", *HEAD, *shown, *COSTS.values())
    lines = [names, ["---"] * 2 + ["---:"] * (len(names) - 2)]
    for data, group in _by_data(results):
        for cells, best in _rows(models, group, shown):
            cells = [cell.replace("|", "\\|") for cell in cells]
            lines.append([data] + [f"**{c}**" if bold else c for c, bold in zip(cells, best, strict=True)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_latex(models: Mapping[str, ModelFacts], results: Sequence[Result]) -> str:
    """A `tabular` for the booktabs package."""
    shown = columns(results)
    names = [*HEAD, *shown, *COSTS.values()]
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}", r"\toprule", _latex_row(map(_tex, names))]
    for data, group in _by_data(results):
        lines += [r"\midrule", rf"\multicolumn{{{len(names)}}}{{l}}{{\emph{{{_tex(data)}}}}} \\"]
        for cells, best in _rows(models, group, shown):
            cells = [_tex(cell) for cell in cells]
            lines.append(_latex_row(rf"\textbf{{{c}}}" if b else c for c, b in zip(cells, best, strict=True)))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def as_csv(models: Mapping[str, ModelFacts], results: Sequence[Result]) -> str:
    costs, shown = tuple(COSTS), columns(results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "model", "stretch", "images", "left_out", *shown, *costs])
    for result in results:
        scores = [result.numbers.get(name) for name in shown]
        facts = asdict(models[result.model])
        head = [result.data, result.model, result.stretch, result.images, len(result.left_out)]
        writer.writerow([*head, *scores, *(facts[name] for name in costs)])
    return text.getvalue()


def as_json(models: Mapping[str, ModelFacts], results: Sequence[Result]) -> str:
    rows = [
        {
            "model": result.model,
            "data": result.data,
            "stretch": result.stretch,
            "images": result.images,
            "left_out": result.left_out,
            "negatives": result.negatives,
            **result.numbers,
        }
        for result in results
    ]
    return (
        json.dumps({"models": {n: asdict(f) for n, f in models.items()}, "results": rows}, indent=2, allow_nan=False)
        + "\n"
    )


def write_images(
    path: Path,
    scored: Mapping[tuple[str, str], Scored],
    store: Store,
    stretches: Sequence[bool],
    agree_with: Mapping[str, Scored] | None = None,
) -> None:
    """The scores of every image as CSV; an image that is not in the averages has its reason as `note`.

    With `agree_with`, another model's sets by name, there is a column `agree`: the IoU with its mask of the image.
    """
    agree = ["agree"] if agree_with else []

    def write(partial: Path) -> None:
        with partial.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["data", "image", "model", "stretch", *IMAGE_SCORES, *agree, "note"])
            for (model, data), one in scored.items():
                for stretch in stretches:
                    ious = one.agreements(agree_with[data], store, stretch) if agree_with else {}
                    for image, scores in one.finished(store, stretch):
                        note = scores.note and f"{scores.note}: not in the averages"
                        writer.writerow(
                            [data, image, model, stretch, *scores.values, *(ious.get(image) for _ in agree), note]
                        )
                for image, reason in one.left_out.items():
                    writer.writerow([data, image, model, "", *[""] * len((*IMAGE_SCORES, *agree)), reason])

    write_whole(path, write)


def _rows(
    models: Mapping[str, ModelFacts], group: Sequence[Result], shown: Sequence[str]
) -> Iterator[tuple[list[str], list[bool]]]:
    """The cells of each result, and which of them are the best of their column, with and without min-max apart."""
    for result in group:
        rivals = [other for other in group if other.stretch == result.stretch]
        given = result.images + len(result.left_out) + result.negatives
        images = str(given) if given == result.images else f"{result.images}/{given}"
        head = [result.model, "yes" if result.stretch else "no", images]
        scores = [_score(result.numbers.get(name)) for name in shown]
        facts = models[result.model]
        costs = [
            _cost(facts.params and facts.params / 1e6, 2),
            _cost(facts.megabytes, 1),
            _cost(facts.gmac, 2),
            _cost(facts.milliseconds, 0),
            facts.runtime,
        ]
        bold = [len(rivals) > 1 and cell == _best(name, rivals) for name, cell in zip(shown, scores, strict=True)]
        yield head + scores + costs, [False] * len(head) + bold + [False] * len(costs)


def _best(name: str, group: Sequence[Result]) -> str:
    values = [result.numbers[name] for result in group if name in result.numbers]
    return _score((min if name in LOWER_IS_BETTER else max)(values, default=None))


def _by_data(results: Sequence[Result]) -> Iterator[tuple[str, list[Result]]]:
    return ((data, list(group)) for data, group in groupby(results, key=lambda result: result.data))


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def _cost(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _tex(text: str) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}
    return "".join(special.get(character, character) for character in text)


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _writer(text: str) -> Callable[[Path], None]:
    return lambda partial: partial.write_text(text)
