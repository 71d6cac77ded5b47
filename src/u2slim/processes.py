"""Processes that work for another one."""

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

# What a container has: control groups of version 2, and of version 1.
_CPU = ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
_MEMORY = ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")


def cpu_share(groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The processors that a container's share is worth, at least 1; None: there is no such share.

    loky knows as much, but takes a tenth of a second to import, and runtimes look at the machine's processors alone.
    """
    for names in _CPU:
        numbers = _numbers(groups, names)
        if len(numbers) == 2 and numbers[0] > 0:
            return max(1, math.ceil(numbers[0] / numbers[1]))
    return None


def free_memory(groups: Path = Path("/sys/fs/cgroup"), machine: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that may still be taken, of the machine's and of a container's share; None: the system does not say."""
    found = []
    with suppress(OSError):
        lines = dict(line.split(":") for line in machine.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for names in _MEMORY:
        numbers = _numbers(groups, names)
        if len(numbers) == 2:
            found.append(max(0, numbers[0] - numbers[1]))
    return min(found, default=None)


def memory_to_take() -> int | None:
    """Four fifths of `free_memory`, so that others get on, too; None: the system does not say."""
    free = free_memory()
    return None if free is None else free * 4 // 5


def _numbers(folder: Path, names: Sequence[str]) -> list[int]:
    """All numbers in these files; none where one is missing, or says that there is no limit."""
    try:
        return [int(word) for name in names for word in (folder / name).read_text().split()]
    except (OSError, ValueError):
        return []


def start_worker(nice: int = 0) -> None:
    """Prepare a helping process: one thread, gone with its parent.

    Args:
        nice: how far it stands back for others where processors are short. Beside a net it should: the net's threads
            wait for each other, so that a process that took turns with one would halve them all. At 19 it would
            wait for everything else on the machine, too.
    """
    import cv2  # a tenth of a second, which a command line does not need

    cv2.setNumThreads(0)
    if nice and hasattr(os, "nice"):
        os.nice(nice)
    end_with_parent(os.getppid())


def end_with_parent(parent: int) -> None:
    """Let this process end soon after the one that started it, however that one ends or has ended."""
    when_parent_ends(parent, lambda: os._exit(1))


def when_parent_ends(parent: int, act: Callable[[], None]) -> None:
    """Act once this process's parent is another one than that of the given id: a killed one can tell nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        act()

    threading.Thread(target=watch, daemon=True).start()
