"""What makes a training step fast on a device, chosen by measurement: benchmarks/results/train_step.md."""

import ctypes
import sys

import torch

from src.errors import UserError

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


def device_of(accelerator: str) -> str:
    """`cuda`, `mps` or `cpu`: the kind of device that Lightning takes for `trainer.accelerator`."""
    if accelerator in ("gpu", "auto"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    return accelerator


def choose_precision(precision: str, device: str) -> str:
    """`trainer.precision`, `auto` replaced by what was fastest on such a device: bf16 where its matrix units have it.

    GPUs without bf16 take fp16 with loss scaling, other devices float32. A checkpoint holds float32 in any case.
    """
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision={precision} is not known; choose one of: {', '.join(PRECISIONS)}.")
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if device == "cpu" and torch.cpu._is_amx_tile_supported() else "32-true"


def keep_memory() -> None:
    """Keep freed memory for the next step instead of returning it to the system and having it zeroed again (glibc).

    A quarter of a lite net's step on a CPU; the process then stays as large as its largest step.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
