"""Processes that work for another one."""

import os
import threading
import time

import cv2


def start_worker() -> None:
    """Prepare a helping process: one thread, behind the net in the queue for the processor, gone with its parent.

    A net's threads wait for each other, so that a process that took turns with one would halve them all.
    """
    cv2.setNumThreads(0)
    if hasattr(os, "nice"):
        os.nice(19)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    # A parent that was killed can tell nobody.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
