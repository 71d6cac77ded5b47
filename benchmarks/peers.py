"""`u2slim cut` beside other tools, start to exit: python -m benchmarks.peers [--peers NAME ...] [--root DATA] > FILE

Each tool is installed alone into an environment of its own below --envs, where it is not there yet; ours always anew.
All take turns on the same photos and the same cores: on one photo, then on a folder of them. The table has medians of
whole processes; `warm` are the photos a second past the first. With --root, each tool's masks of ECSSD's first photos
are scored by our evaluation. Numbers of bytes are without Node, Python, and the OpenCV that a C++ program may share.
benchmarks.web has the browser.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.markdown import Row, head, line
from benchmarks.peer_installs import NotInstalled, Peer, bytes_of, known_peers, reason_in
from benchmarks.processes import SIZES, generate_apart, in_turns, run
from u2slim.repository import REPOSITORY

COLUMNS: dict[str, tuple[str, str]] = {
    "peer": ("tool", ""),
    "megapixels": ("MP", ""),
    "one_seconds": ("one photo, s", ".2f"),
    "one_mib": ("MiB", ".0f"),
    "rate": ("folder, photos/s", ".2f"),
    "warm_rate": ("warm, photos/s", ".2f"),
    "folder_mib": ("MiB", ".0f"),
    "installed_mb": ("MB installed", ".1f"),
    "net_mb": ("MB of net", ".1f"),
    "maxF": ("maxF", ".3f"),
    "bIoU": ("boundary IoU", ".3f"),
    "why": ("why not", ""),
}


def table(rows: Sequence[Row]) -> str:
    """In Markdown; "-" for what was not measured, and a column of reasons only where there are any."""
    shown = {key: COLUMNS[key] for key in COLUMNS if key != "why" or any("why" in row for row in rows)}
    return "\n".join([head(shown), *(line(row, shown, "-") for row in rows)])


def usable(peers: Sequence[Peer], photo: Path, out: Path, env: Mapping[str, str]) -> tuple[list[Peer], list[Row]]:
    """The peers that are installed and cut one photo out, and a row for each of the others."""
    found: list[Peer] = []
    rows: list[Row] = []
    for peer in peers:
        print(f"installing {peer.name}", file=sys.stderr)
        try:
            peer.install(peer.home)
            in_turns({peer.name: peer.command(photo, out)}, 1, out, env, warm=0)
        except NotInstalled as error:
            rows.append({"peer": peer.name, "why": str(error)})
        except SystemExit as error:  # as `processes.run` says that a command failed
            print(error, file=sys.stderr)
            rows.append({"peer": peer.name, "why": f"does not run: {reason_in(str(error))}"})
        else:
            found.append(peer)
    return found, rows


def timed(
    peers: Sequence[Peer], photos: Path, count: int, rounds: tuple[int, int], out: Path, env: Mapping[str, str]
) -> dict[str, Row]:
    """What one photo and the folder of `count` take, in so many rounds of each, by peer."""
    photo = photos / "0.jpg"
    one = in_turns({peer.name: peer.command(photo, out) for peer in peers}, rounds[0], out, env)
    # Without a round that does not count: a folder is long enough.
    many = in_turns({peer.name: peer.command(photos, out) for peer in peers}, rounds[1], out, env, warm=0)
    rows: dict[str, Row] = {}
    for name, (seconds, memory) in many.items():
        row = rows[name] = {"one_seconds": one[name][0], "one_mib": one[name][1], "rate": count / seconds}
        row["folder_mib"] = memory
        if count > 1 and seconds > one[name][0]:
            row["warm_rate"] = (count - 1) / (seconds - one[name][0])
    return rows


def scored(
    peers: Sequence[Peer], root: Path, count: int, folder: Path, env: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """maxF and boundary IoU on ECSSD's first photos, by peer."""
    from benchmarks import peer_scores  # late: it is large, and what times processes stays small

    pairs = peer_scores.lay_out(root, folder / "ecssd", count)
    masks = {}
    for index, peer in enumerate(peers):
        print(f"ECSSD: {peer.name}", file=sys.stderr)
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        run(peer.command(folder / "ecssd", out), env)
        masks[peer.name] = folder / "masks" / str(index)
        peer_scores.keep_masks(out / peer.cuts, masks[peer.name])
    return peer_scores.scores(masks, pairs, folder)


def measure(peers: Sequence[Peer], options: argparse.Namespace, save: Callable[[Sequence[Row]], None]) -> list[Row]:
    """All rows; `save` gets those that are known after each size, as the whole takes hours."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name, "out")
        # Not the package in a folder that the caller has on the path.
        env = {"U2NET_HOME": str(options.envs / "nets"), "HOME": name, "PYTHONPATH": ""}
        generate_apart(folder / "trial", "0.12", 1)
        there, missing = usable(peers, folder / "trial" / "0.jpg", out, env)
        sizes = {p.name: {"installed_mb": bytes_of(p.home) / 1e6, "net_mb": p.net_bytes() / 1e6} for p in there}
        rows: list[Row] = []
        for megapixels in options.megapixels if there else ():
            print(f"{options.count} photos of {megapixels} megapixels", file=sys.stderr)
            photos = folder / megapixels
            generate_apart(photos, megapixels, options.count)
            found = timed(there, photos, options.count, (options.rounds, options.folder_rounds), out, env)
            shutil.rmtree(photos)
            rows += [{"peer": name, "megapixels": megapixels, **row, **sizes[name]} for name, row in found.items()]
            save(rows + missing)
        if options.root and there:
            scores = scored(there, options.root, options.images, folder, env)
            rows = [{**row, **scores[str(row["peer"])]} for row in rows]
            save(rows + missing)
    return rows + missing


def chosen(peers: Sequence[Peer], words: Sequence[str] | None) -> list[Peer]:
    """Those whose names have one of the words in them; all without words."""
    found = [peer for peer in peers if not words or any(word in peer.name for word in words)]
    if not found:
        sys.exit(f"No tool is named so. There are: {'; '.join(peer.name for peer in peers)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--peers", nargs="+", metavar="WORD", help="only tools that have one of these in their name")
    add("--envs", type=Path, default=REPOSITORY / "build" / "peers", help="where the tools are installed")
    add("--megapixels", nargs="+", default=["0.3", "2", "12"], choices=SIZES)
    add("--count", type=int, default=200, help="number of photos in the folder")
    add("--rounds", type=int, default=7, help="how often one photo is cut out")
    add("--folder-rounds", type=int, default=2, help="how often the folder is")
    add("--cores", type=int, help="number of cores for every tool; default: all")
    add("--isnet", type=Path, help="an ONNX file of IS-Net, for rembg")
    add("--cpp", type=Path, default=REPOSITORY / "build" / "cpp" / "u2slim", help="the C++ program")
    add("--root", type=Path, help="the folder that ECSSD is in, to score masks, too")
    add("--images", type=int, default=200, help="number of ECSSD photos")
    add("--json", type=Path, metavar="FILE", help="also write the rows, and the machine, here")
    options = parser.parse_args()
    options.envs = options.envs.resolve()
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    os.sched_setaffinity(0, cores)
    machine = {"cores": len(cores), "processor": platform.machine(), "python": platform.python_version()}
    settings = {name: getattr(options, name) for name in ("count", "rounds", "folder_rounds", "images")}

    def save(rows: Sequence[Row]) -> None:
        if options.json:
            options.json.write_text(json.dumps({"machine": machine, "settings": settings, "rows": rows}, indent=2))

    isnet = options.isnet and options.isnet.resolve()
    peers = chosen(known_peers(options.envs, isnet, options.cpp.resolve()), options.peers)
    rows = measure(peers, options, save)
    save(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
