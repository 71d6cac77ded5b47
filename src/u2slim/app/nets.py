"""`u2slim nets`: the nets that go by a name."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from u2slim.errors import UserError
from u2slim.runtime import ONNX_RUNTIMES, check_runtime
from u2slim.zoo import PUBLISHED, SHIPPED, Published
from u2slim.zoo.fetch import NETS, find

REPEATS = 5  # of each net in each runtime, after one to warm up
EXAMPLES = """\
examples:
  u2slim nets                                     what there is, and where it lies
  u2slim nets --speed                             how long each takes for a photo here
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to a parser's."""
    about = "list the nets that go by a name"
    parser = commands.add_parser(
        "nets",
        help=about,
        description=f"{about.capitalize()}.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--speed", action="store_true", help="measure those at hand in each installed runtime, first")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print them."""
    from u2slim.terminal import print_rows  # takes a moment, which other commands do not need

    runtimes = list(_installed()) if options.speed else []
    paths = {net.name: net.onnx for net in SHIPPED.values()} | {net.name: _at_hand(net) for net in PUBLISHED.values()}
    times = _times([name for name, path in paths.items() if path], runtimes)
    rows = [["net", "MB", *(f"{runtime}, ms" for runtime in runtimes), "maxF", "MAE", "where", "licence", "what"]]
    for name, path in paths.items():
        ours = SHIPPED.get(name)
        net = ours or PUBLISHED[name]
        megabytes = f"{path.stat().st_size / 1e6:.1f}" if path else f"{PUBLISHED[name].files[0].megabytes:.1f}"
        where = "to download" if path is None else "shipped" if path.parent == NETS else f"in {path.parent}"
        about = (
            ("Apache-2.0", net.about) if ours else (PUBLISHED[name].licence, f"{net.about}: {PUBLISHED[name].source}")
        )
        speeds = [times.get((name, runtime), "-") for runtime in runtimes]
        rows.append([name, megabytes, *speeds, *_scores(net.ecssd), where, *about])
    print_rows(rows)
    print("maxF and MAE: ours on ECSSD 0001-0200, by which the smaller lite nets were chosen; - where not measured.")
    if runtimes:
        print(f"ms: the net alone, median of {REPEATS} at its own size, on all cores.")
    return 0


def _installed() -> Iterator[str]:
    for runtime in ONNX_RUNTIMES:
        try:
            check_runtime(runtime)
            yield runtime
        except UserError:
            pass


def _times(names: list[str], runtimes: list[str]) -> dict[tuple[str, str], str]:
    """Milliseconds of one photo by net and runtime."""
    import numpy as np
    from rich.progress import track

    from u2slim.zoo import open_net

    times = {}
    pairs = [(name, runtime) for name in names for runtime in runtimes]
    for name, runtime in track(pairs, "measuring", transient=True, disable=not pairs):
        try:
            runner = open_net(name).runner(runtime)
        except UserError:  # as torch, of a file that only torch reads, or a runtime that cannot run this one
            continue
        photo = np.random.default_rng(0).integers(0, 256, (*runner.size, 3)).astype(np.float32)
        taken = []
        for _ in range(REPEATS + 1):
            start = perf_counter()
            runner.infer(photo)
            taken.append(perf_counter() - start)
        times[name, runtime] = f"{1000 * median(taken[1:]):.0f}"
    return times


def _at_hand(published: Published) -> Path | None:
    try:
        return find(published)
    except UserError:
        return None


def _scores(scores: tuple[float, float] | None) -> list[str]:
    return ["-", "-"] if scores is None else [f"{score:.3f}".removeprefix("0") for score in scores]
