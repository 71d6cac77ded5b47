"""The processes in which `u2slim serve` cuts photos out.

They are none of the server's own threads: libraries that decode and encode keep Python's lock for seconds at worst, as
Pillow does for a large TIFF, and a photo that ends its process shall not end the server.
"""

import argparse
import math
import os
import signal
import time
import warnings
from concurrent.futures import Executor, ProcessPoolExecutor
from copy import copy
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile

from u2slim.app.options import make_cutter, open_runner
from u2slim.app.received import Limits, Refusal, for_guests, too_many_pixels
from u2slim.errors import Unreadable, UserError
from u2slim.images.read import Loaded, read_header
from u2slim.processes import end_with_parent, memory_to_take
from u2slim.runtime import Runner
from u2slim.runtime.runner import threads_each

NICE = 5  # of 19: behind the server itself in the queue for the processor


@dataclass(frozen=True)
class Result:
    """A picture's file, to be removed by who takes it, and what is told of it."""

    file: Path
    facts: dict[str, object]
    seconds: float


@dataclass
class Opened:
    """What a process has of the net, or why it has none."""

    stretched: Runner | None = None
    plain: Runner | None = None
    error: UserError | None = None


OPENED = Opened()  # one for each process


def processes(options: argparse.Namespace, limits: Limits) -> Executor:
    """As many processes as photos may be at work, each with the net."""
    return ProcessPoolExecutor(limits.concurrency, get_context("spawn"), _begin, (options, limits, os.getpid()))


def _begin(options: argparse.Namespace, limits: Limits, parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # which may come to all processes; the server decides what they mean
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(parent)
    if hasattr(os, "nice"):
        os.nice(NICE)
    warnings.filterwarnings("ignore", module="PIL")  # of guests' files, who shall not fill the server's output
    options.threads = threads_each(limits.concurrency, options.threads)
    try:
        use(open_runner(options, math.inf, 1))
    except UserError as error:
        OPENED.error = error


def use(runner: Runner) -> None:
    """Have this process work with a net that is open."""
    OPENED.stretched, OPENED.plain = runner, copy(runner)  # which is the same net
    OPENED.plain.stretch = False


def runtime() -> str:
    """The name of what runs the net.

    Raises:
        UserError: it cannot be opened.
    """
    if OPENED.error:
        raise OPENED.error
    assert OPENED.stretched
    return OPENED.stretched.runtime


def make(data: bytes, options: argparse.Namespace, limits: Limits, folder: Path) -> Result:
    """A photo's picture, as a file in a folder.

    Raises:
        Refusal: it is no photo, is too large, or its options do not go with the net.
    """
    start = time.perf_counter()
    photo = Loaded("The photo", data)
    runner = OPENED.plain if options.no_stretch else OPENED.stretched
    assert runner
    try:
        header = read_header(photo)
        pixels = header.height * header.width
        if pixels > limits.max_pixels:
            raise too_many_pixels(limits, pixels)
        cutter = make_cutter(options, runner, files=False)
        if limits.memory is not None and pixels * cutter.bytes_a_pixel * (1 + options.border) > limits.memory:
            raise Refusal(413, "The server has too little memory for so large a photo; send a smaller one.")
        made = cutter(photo)
    except Unreadable as error:
        raise Refusal(415, str(error)) from error
    except UserError as error:
        raise Refusal(422, for_guests(error)) from error
    with NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(made.files[0])
    return Result(Path(file.name), made.facts(), time.perf_counter() - start)


def memory_each(concurrency: int) -> int | None:
    """Bytes that each of so many photos may take; None: nobody knows."""
    free = memory_to_take()
    return None if free is None else free // concurrency
