"""Which versions cut photos out: python -m benchmarks.versions [--envs FOLDER] [--pythons PYTHON ...] [--opencv V ...]

Each Python gets an environment with `pip install .`. Then one OpenCV after the other takes the newest's place, also
those that pyproject.toml excludes, one NumPy after the other, and at last the lower bounds of all dependencies. Each
time a generated photo is cut out with one net of each kind. The table has how far the masks are from those of the
newest versions in the first row, in levels of 255, or in a few words why there are none.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.processes import generate_apart
from u2slim.repository import REPOSITORY

NETS = ("lite-two-thirds", "lite-s", "lite-half-int8", "u2netp")  # float16, packed, 8 bits, another project's form
OPENCV = "4.5.5.64 4.6.0.66 4.7.0.72 4.8.1.78 4.9.0.80 4.10.0.84 4.11.0.86 4.12.0.88 4.13.0.92 5.0.0.93"
NUMPY = "2.0.2 2.1.3 2.2.6 2.3.5"
WITHIN = 1  # of 255: farther is wrong
WORDS = {  # what is printed where no mask is made, in a few words
    r"multiarray|_ARRAY_API|compiled using NumPy 1": "built for NumPy 1",
    r"cannot run": "does not run it",
}
# Past what refuses 8 bits in OpenCV 5, so that the table has what it computes.
CUT = """
import sys
from u2slim.app.main import main
from u2slim.runtime.onnx_runners import OpenCVRunner
OpenCVRunner.check = lambda *_: None
sys.exit(main())
"""
VERSIONS = """
import sys, importlib.metadata as m
print(".".join(map(str, sys.version_info[:3])), m.version("opencv-python-headless"), m.version("numpy"))
"""


class Environment:
    """A Python in which one set of packages after the other is installed."""

    def __init__(self, python: Path, folder: Path):
        self.python = folder / "bin" / "python"
        if not self.python.exists():
            subprocess.run([python, "-m", "venv", folder], check=True)
        if reason := self.install("--upgrade", "--upgrade-strategy", "eager", str(REPOSITORY)):
            sys.exit(reason)

    def install(self, *words: str) -> str:
        """Run pip; what it says where it fails."""
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
        print("pip install", *words, file=sys.stderr)
        done = subprocess.run(pip, capture_output=True, text=True)
        return done.stderr.strip() if done.returncode else ""

    def versions(self) -> list[str]:
        """Of Python, OpenCV and NumPy."""
        return subprocess.check_output([self.python, "-c", VERSIONS], text=True).split()

    def masks(self, photo: Path, folder: Path) -> dict[str, np.ndarray | str]:
        """The mask of a photo by each net, or in a few words why there is none."""
        made: dict[str, np.ndarray | str] = {}
        for net in NETS:
            mask = folder / "mask.png"
            mask.unlink(missing_ok=True)
            words = [self.python, "-c", CUT, "cut", photo, "--net", net, "--mask", "only", "-o", mask]
            # Not the package in a folder that the caller has on the path.
            env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=env)
            if done.returncode:
                print(done.stderr.strip()[-300:], file=sys.stderr)
                made[net] = next((text for words, text in WORDS.items() if re.search(words, done.stderr)), "fails")
            else:
                made[net] = np.asarray(Image.open(mask)).astype(int)
        return made


def found_pythons() -> list[Path]:
    """One of each Python from 3.11 on: this one, those on the path, and pyenv's; the newest first."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if "shims" not in folder]
    paths = [Path(sys.executable), *(path for folder in folders for path in sorted(folder.glob("python3.[1-9][0-9]")))]
    paths += sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python3"))
    found: dict[int, Path] = {}
    for path in paths:
        done = subprocess.run([path, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True)
        if not done.returncode and int(done.stdout) >= 11:
            found.setdefault(int(done.stdout), path)
    return [found[minor] for minor in sorted(found, reverse=True)]


def lower_bounds() -> list[str]:
    """The oldest of each dependency that pyproject.toml takes."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pairs = [re.match(r"([\w-]+)(?:>=|~=)([\d.]+)", text) for text in project["dependencies"]]
    # OpenCV's have a fourth number, of the build.
    return [f"{pair[1]}=={pair[2]}{'.*' if 'opencv' in pair[1] else ''}" for pair in pairs if pair]


def sets(newest: Sequence[str], opencv: Sequence[str], numpy: Sequence[str]) -> Iterator[list[str]]:
    """What pip is asked for, one row after the other."""
    pairs = [*((one, newest[2]) for one in opencv), *((newest[1], one) for one in numpy)]
    for pair in dict.fromkeys(pair for pair in pairs if pair != tuple(newest[1:])):
        # As they are: packages exclude each other more often than they fail together.
        yield ["--no-deps", f"opencv-python-headless=={pair[0]}", f"numpy=={pair[1]}"]
    yield lower_bounds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--envs", type=Path, default=REPOSITORY / "build" / "versions", help="folder of environments")
    parser.add_argument("--pythons", type=Path, nargs="+", help="default: one Python of each version from 3.11 on")
    parser.add_argument("--opencv", nargs="*", default=OPENCV.split())
    parser.add_argument("--numpy", nargs="*", default=NUMPY.split())
    options = parser.parse_args()
    print(f"| Python | OpenCV | NumPy | {' | '.join(NETS)} |\n|---|---|---|{'---|' * len(NETS)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate_apart(folder, "0.12", 1)
        reference: dict[str, np.ndarray | str] = {}
        for python in options.pythons or found_pythons():
            minor = subprocess.check_output([python, "-c", "import sys; print(sys.version_info[1])"], text=True)
            environment = Environment(python, options.envs.resolve() / f"3.{minor.strip()}")
            newest = environment.versions()
            for wanted in [[], *sets(newest, options.opencv, options.numpy)]:
                remark = ", all lower bounds" if wanted == lower_bounds() else ""
                if wanted and (reason := environment.install("--only-binary", ":all:", *wanted)):
                    print(reason.splitlines()[-1], file=sys.stderr)
                    named = ["", ""] if remark else [text.partition("==")[2] for text in wanted[1:]]
                    cells = ["no wheel"] * len(NETS)
                else:
                    named = environment.versions()[1:]
                    made = environment.masks(folder / "0.jpg", folder)
                    reference = reference or made
                    cells = [_cell(reference[net], made[net]) for net in NETS]
                print(f"| {' | '.join([newest[0], named[0], named[1] + remark, *cells])} |", flush=True)


def _cell(reference: np.ndarray | str, made: np.ndarray | str) -> str:
    if isinstance(reference, str) or isinstance(made, str):
        return str(made) if isinstance(made, str) else "no reference"
    apart = np.abs(made - reference).max()
    return str(apart) if apart <= WITHIN else f"**{apart}**"


if __name__ == "__main__":
    main()
