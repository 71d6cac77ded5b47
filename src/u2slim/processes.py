"""Processes that work for another one."""

import os
import threading
import time
from collections.abc import Callable

import cv2


def start_worker() -> None:
    """Prepare a helping process: one thread, behind the net in the queue for the processor, gone with its parent.

    A net's threads wait for each other, so that a process that took turns with one would halve them all.
    """
    cv2.setNumThreads(0)
    if hasattr(os, "nice"):
        os.nice(19)
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
