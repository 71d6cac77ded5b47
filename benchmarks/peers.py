"""`u2slim cut` beside other tools, start to exit: python -m benchmarks.peers [--envs FOLDER] [--photos PHOTO ...]

Each tool is installed alone into an environment of its own below FOLDER, where it is not there yet; rembg's net is
copied from this package. All take turns on the same photo, and on a folder of photos. The table has the median seconds
and the largest memory of whole processes, and each as a part of rembg's.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import generate_apart, in_turns
from u2slim.repository import REPOSITORY
from u2slim.zoo.fetch import NETS

PACKAGES = {"u2slim": str(REPOSITORY), "rembg": "rembg[cpu,cli]"}


def environments(folder: Path) -> dict[str, Path]:
    """The commands of the tools, each installed by itself; ours always anew."""
    commands = {}
    for name, package in PACKAGES.items():
        commands[name] = folder / name / "bin" / name
        if not commands[name].exists():
            print(f"installing {package} into {folder / name}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        if name == "u2slim" or not commands[name].exists():
            pip = [folder / name / "bin" / "python", "-m", "pip", "install", "--quiet", package]
            subprocess.run(pip, check=True)
    (folder / "nets").mkdir(exist_ok=True)
    shutil.copy(NETS / "u2netp.onnx", folder / "nets")
    return commands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--envs", type=Path, default=REPOSITORY / "build" / "peers", help="where the tools are installed"
    )
    parser.add_argument("--megapixels", nargs="+", default=["0.12", "12"], choices=("0.12", "2", "12"))
    parser.add_argument("--count", type=int, default=16, help="number of photos in the folder")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    tools = environments(options.envs.resolve())
    ours, rembg = str(tools["u2slim"]), str(tools["rembg"])
    print(
        "| photos | command | seconds | MiB | seconds, of rembg's | MiB, of rembg's |\n|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        env = {"U2NET_HOME": str(options.envs.resolve() / "nets"), "HOME": folder}
        for megapixels in options.megapixels:
            many, one, out = Path(folder, megapixels), Path(folder, megapixels, "0.jpg"), Path(folder, "out")
            generate_apart(many, megapixels, options.count)
            single = {
                "u2slim cut": [ours, "cut", one, "-o", out / "a.png"],
                "u2slim cut --net u2netp": [ours, "cut", one, "-o", out / "b.png", "--net", "u2netp"],
                "rembg i -m u2netp": [rembg, "i", "-m", "u2netp", one, out / "c.png"],
            }
            several = {
                "u2slim cut": [ours, "cut", many, "-o", out / "a"],
                "u2slim cut --net u2netp": [ours, "cut", many, "-o", out / "b", "--net", "u2netp"],
                "rembg p -m u2netp": [rembg, "p", "-m", "u2netp", many, out / "c"],
            }
            for count, commands in ((1, single), (options.count, several)):
                words = {name: list(map(str, command)) for name, command in commands.items()}
                rows = in_turns(words, options.rounds if count == 1 else max(2, options.rounds // 3), out, env)
                *_, (seconds, memory) = rows.values()
                for name, (own, used) in rows.items():
                    of_theirs = f"**{own / seconds:.2f}** | **{used / memory:.2f}**"
                    print(
                        f"| {count} of {megapixels} MP | `{name}` | {own:.2f} | {used:.0f} | {of_theirs} |", flush=True
                    )


if __name__ == "__main__":
    main()
