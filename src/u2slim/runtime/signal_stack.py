"""The stack that signal handlers run on."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """Linux's `stack_t`."""

    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Whatever a library sets as this thread's signal stack meanwhile, the earlier one is used again afterwards.

    OpenVINO 2026 sets one of 20 KB without a guard page where the processor has matrix registers. A signal saves
    12 KB of registers on it, and the first call of a function 11 KB more, so handlers write over other memory.
    """
    # upstream: https://github.com/openvinotoolkit/openvino/pull/11894 sets it; its size is not reported as far as known
    # (seen with openvino 2026.4); drop when the test of the signal stack passes without this
    if sys.platform != "linux":
        yield
        return
    sigaltstack, before = ctypes.CDLL(None).sigaltstack, _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)
