"""`u2slim nets`: the nets that go by a name."""

import argparse

from u2slim.files import cache_dir
from u2slim.terminal import print_rows
from u2slim.zoo import PUBLISHED, SHIPPED


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to a parser's."""
    about = "list the nets that go by a name"
    parser = commands.add_parser("nets", help=about, description=f"{about.capitalize()}.")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print them."""
    shipped = ([net.name, f"{net.onnx.stat().st_size / 1e6:.1f}", "shipped", net.about] for net in SHIPPED.values())
    rows = [["net", "MB", "where", "what"], *shipped]
    for published in PUBLISHED.values():
        file = published.file
        where = "cached" if (cache_dir() / file.name).is_file() else "to download"
        rows.append([published.name, f"{file.megabytes}", where, f"{published.licence}, {published.source}"])
    print_rows(rows)
    return 0
