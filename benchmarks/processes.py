"""Whole processes, timed from start to exit, and photos to time them with.

The process that measures stays small itself, as the system never reports less peak memory for a process than its parent
had.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

CUT = [sys.executable, "-m", "u2slim.app.main", "cut"]  # to which photos and options are added
SIZES = {"0.12": (300, 400), "0.3": (480, 640), "2": (1200, 1600), "12": (3000, 4000)}  # megapixels: height, width


def generate(folder: Path, megapixels: str, count: int) -> None:
    """Photos of a size, with a camera's noise: without it they are smaller and faster than any photo."""
    import cv2
    import numpy as np
    from PIL import Image

    from u2slim.data.sample import render

    folder.mkdir(parents=True, exist_ok=True)
    height, width = SIZES[megapixels]
    for index in range(count):
        image = cv2.resize(render(0, index)[0], (width, height), interpolation=cv2.INTER_CUBIC)
        noise = np.random.default_rng(index).normal(0, 3, image.shape)
        Image.fromarray((image + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=92)


def generate_apart(folder: Path, megapixels: str, count: int) -> None:
    """The same in a process of its own."""
    subprocess.run([sys.executable, "-m", "benchmarks.processes", folder, megapixels, str(count)], check=True)


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[float, float]:
    """Seconds from start to exit, and the largest resident memory in MiB; what it prints is shown where it fails."""
    start = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | (env or {}))
    assert process.stdout
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}:\n{printed.decode()}")
    return seconds, usage.ru_maxrss / 1024


def in_turns(
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    results: Path,
    env: Mapping[str, str] | None = None,
    warm: int = 1,
) -> dict[str, tuple[float, float]]:
    """Median seconds and MiB of commands that take turns, after as many rounds as `warm` that do not count.

    The folder of results is emptied before each, so that none finds its work done.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds + warm):
        for name, command in commands.items():
            shutil.rmtree(results, ignore_errors=True)
            results.mkdir()
            taken[name].append(run(command, env))
    return {
        name: (median(seconds for seconds, _ in runs[warm:]), median(memory for _, memory in runs[warm:]))
        for name, runs in taken.items()
    }


if __name__ == "__main__":
    generate(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
