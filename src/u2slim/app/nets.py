"""`u2slim nets`: the nets that go by a name."""

import argparse
from pathlib import Path

from u2slim.app.options import Commands, add_command
from u2slim.errors import UserError
from u2slim.runtime import installed_runtimes, latency
from u2slim.zoo import PUBLISHED, SHIPPED, Published
from u2slim.zoo.fetch import NETS, find

REPEATS = 5  # of each net in each runtime, after one to warm up
EXAMPLES = """\
  u2slim nets                                     all nets, and where their files are
  u2slim nets --speed                             how long each takes for a photo here
"""


def add_to(commands: Commands) -> None:
    """Add the command to a parser's."""
    parser = add_command(commands, run, "nets", "list the nets that have a name", EXAMPLES)
    parser.add_argument(
        "--speed", action="store_true", help="also measure the nets on this machine in each installed runtime"
    )


def run(options: argparse.Namespace) -> int:
    """Print them."""
    from u2slim.terminal import print_rows  # takes a moment, which other commands do not need

    runtimes = installed_runtimes() if options.speed else []
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
    print("maxF and MAE: our measurements on ECSSD 0001-0200, by which the smaller lite nets were chosen; -: none.")
    if runtimes:
        print(f"ms: time of the net alone at its own size on all cores, median of {REPEATS} runs.")
    return 0


def known_nets() -> list[dict[str, object]]:
    """Name, size, licence, and whether the file is at hand, of each; nothing is downloaded."""
    told: list[dict[str, object]] = []
    for net in SHIPPED.values():
        megabytes = round(net.onnx.stat().st_size / 1e6, 2)
        told.append({"name": net.name, "megabytes": megabytes, "licence": "Apache-2.0", "here": True})
    for other in PUBLISHED.values():
        about = {"name": other.name, "megabytes": other.files[0].megabytes, "licence": other.licence}
        told.append(about | {"here": _at_hand(other) is not None})
    return told


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
        runner.infer(photo)
        times[name, runtime] = f"{latency(runner, [photo], REPEATS):.0f}"
    return times


def _at_hand(published: Published) -> Path | None:
    try:
        return find(published)
    except UserError:
        return None


def _scores(scores: tuple[float, float] | None) -> list[str]:
    return ["-", "-"] if scores is None else [f"{score:.3f}".removeprefix("0") for score in scores]
