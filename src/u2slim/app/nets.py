"""`u2slim nets`: the nets that go by a name."""

import argparse
from pathlib import Path

from u2slim.errors import UserError
from u2slim.terminal import print_rows
from u2slim.zoo import PUBLISHED, SHIPPED, Published
from u2slim.zoo.fetch import NETS, find


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to a parser's."""
    about = "list the nets that go by a name"
    parser = commands.add_parser("nets", help=about, description=f"{about.capitalize()}.")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print them."""
    rows = [["net", "MB", "maxF", "MAE", "where", "licence", "what"]]
    rows += [
        [net.name, _megabytes(net.onnx), *_scores(net.ecssd), "shipped", "Apache-2.0", net.about]
        for net in SHIPPED.values()
    ]
    for published in PUBLISHED.values():
        path = _at_hand(published)
        megabytes = _megabytes(path) if path else f"{published.files[0].megabytes:.1f}"
        where = "to download" if path is None else "shipped" if path.parent == NETS else f"in {path.parent}"
        about = published.licence, f"{published.about}: {published.source}"
        rows.append([published.name, megabytes, *_scores(published.ecssd), where, *about])
    print_rows(rows)
    print("maxF and MAE: ours on ECSSD 0001-0200, by which the smaller lite nets were chosen; - where not measured.")
    return 0


def _at_hand(published: Published) -> Path | None:
    try:
        return find(published)
    except UserError:
        return None


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f}"


def _scores(scores: tuple[float, float] | None) -> list[str]:
    return ["-", "-"] if scores is None else [f"{score:.3f}".removeprefix("0") for score in scores]
