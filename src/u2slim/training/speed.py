"""What makes a training step fast on a device, chosen by measurement: benchmarks/results/train_step.md."""

import ctypes
import logging
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2slim.errors import UserError

log = logging.getLogger(__name__)

TRAINER_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


def device_of(accelerator: str) -> str:
    """`cuda`, `mps` or `cpu`: the kind of device that Lightning takes for `trainer.accelerator`."""
    if accelerator in ("gpu", "auto"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    return accelerator


def choose_precision(precision: str, device: str, net: nn.Module) -> str:
    """`trainer.precision`, `auto` replaced by what was fastest on such a device: bf16 where its matrix units have it.

    GPUs without bf16 take fp16 with loss scaling, other devices float32. A checkpoint holds float32 in any case.

    Raises:
        UserError: no such precision, or bf16 is asked for where it would train the net by wrong gradients.
    """
    if precision not in TRAINER_PRECISIONS:
        raise UserError(f"trainer.precision={precision} is not known; choose one of: {', '.join(TRAINER_PRECISIONS)}.")
    chosen = _fastest_precision(device) if precision == "auto" else precision
    if device == "cpu" and chosen == "bf16-mixed" and (fault := bf16_fault(net)):
        if precision != "auto":
            raise UserError(f"{fault}; use trainer.precision=32-true, or channels in multiples of 16.")
        log.warning("%s; training in float32", fault)
        return "32-true"
    return chosen


def _fastest_precision(device: str) -> str:
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if device == "cpu" and torch.cpu._is_avx512_bf16_supported() else "32-true"


def bf16_fault(net: nn.Module) -> str | None:
    """A convolution of the net whose weights would get a wrong gradient in bf16 on this processor, in a sentence.

    torch 2.13 with AVX-512 makes anything, NaN too, of the last input channels of a dilated convolution in
    channels_last if there are more than 16 and no multiple of 16, as in a pruned net. So these are tried.
    """
    # upstream: not reported as far as known (seen with torch 2.13); drop when _weight_gradient agrees on AVX-512
    tried = set()
    for name, conv in net.named_modules():
        if not isinstance(conv, nn.Conv2d) or conv.dilation == (1, 1) or conv.in_channels % 16 == 0:
            continue
        if (kind := conv.extra_repr()) in tried:
            continue
        tried.add(kind)
        bf16, exact = (_weight_gradient(conv, dtype) for dtype in (torch.bfloat16, torch.float32))
        if not (bf16 - exact).norm() < 0.1 * exact.norm():
            return f"In bfloat16 this processor gets the gradient of {name} ({kind}) wrong"
    return None


def _weight_gradient(conv: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype, memory_format=torch.channels_last)

    image, weight = noise(2, conv.in_channels, 23, 30), noise(*conv.weight.shape).requires_grad_()
    made = F.conv2d(image, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return torch.autograd.grad(made, weight, noise(*made.shape))[0].float()


def keep_memory() -> None:
    """Keep freed memory for the next step instead of returning it to the system and having it zeroed again (glibc).

    A quarter of a lite net's step on a CPU; the process then stays as large as its largest step.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
