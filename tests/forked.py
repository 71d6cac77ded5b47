"""Doors in processes of their own that need not import PyTorch first: forked from one that has.

Importing takes longer than most tests' work, and every test of a door would do it anew.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

# Packages only: the project's own modules are imported by each door, as they are for a user.
PACKAGES = "torch torchvision pytorch_lightning torchmetrics hydra albumentations cv2 scipy.ndimage onnx onnxruntime"
PACKAGES += " matplotlib.pyplot py_sod_metrics PIL.Image jinja2 rich.progress lmdb loky"


def run_forked(command: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a script (`FILE.py ...`) or module (`NAME ...`)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PACKAGES.split())
    before = dict(os.environ)
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        # The first one starts the server, whose number of threads is that of all.
        os.environ.update(env)
        try:
            process = context.Process(target=_door, args=(list(command), str(cwd), dict(env), str(out), str(err)))
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{command} took more than {timeout} s: {out.read_text()} {err.read_text()}")
        return process.exitcode, out.read_text(), err.read_text()


def _door(command: list[str], cwd: str, env: Mapping[str, str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = command
    sys.path[:0] = [str(Path(command[0]).parent)] if command[0].endswith(".py") else [cwd]
    try:
        if command[0].endswith(".py"):
            runpy.run_path(command[0], run_name="__main__")
        else:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    finally:
        # upstream: https://github.com/python/cpython/issues/83856; drop when the oldest Python has its fix
        atexit._run_exitfuncs()  # which a forked process does not do by itself
