"""How fast a training step is, ours against U2-Net's recipe: python -m benchmarks.train_step --width lite.

Two processes take turns, step by step, on the same device and batch: U2-Net's recipe written plainly (float32,
contiguous, TF32 off, seven upsampled maps through sigmoid and binary cross-entropy, Adam, the loss read every step),
and ours as train.py runs it by default. Each is timed by its best rounds, since whatever else the machine does only
adds to a time; peak memory is the process's on a CPU and the allocator's on a GPU. On a GPU it also prints the part of
the card's peak, as its own largest bf16 matrix product shows it, and the largest batch that fits.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from u2slim.models import U2Net, u2net
from u2slim.models.conv import DepthwiseSeparableConv, GroupedConv, StandardConv
from u2slim.tasks import SaliencyTask
from u2slim.training.speed import choose_precision, device_of, keep_memory

VARIANTS = {conv.variant: conv for conv in (StandardConv, GroupedConv, DepthwiseSeparableConv)}
DTYPES = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
GIB = 2**30


def batch_of(count: int, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    mask = (F.avg_pool2d(torch.rand(count, 1, size, size, generator=generator), 31, 1, 15) > 0.5).float()
    return image.to(device), mask.to(device)


def plain(options: argparse.Namespace) -> Callable[[], None]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    u2net.upsample = lambda x, size: F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    net = U2Net(options.width, VARIANTS[options.variant]).to(options.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    image, mask = batch_of(options.batch, options.size, options.device)
    image = (image / 255.0).contiguous()

    def step() -> None:
        optimizer.zero_grad()
        loss = sum(F.binary_cross_entropy(output.sigmoid(), mask) for output in net(image))
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def ours(options: argparse.Namespace) -> Callable[[], None]:
    if options.device == "cpu":
        keep_memory()
    conv = {"_target_": f"u2slim.models.{VARIANTS[options.variant].__name__}", "_partial_": True}
    model = {"_target_": "u2slim.models.U2Net", "width": options.width, "conv": conv}
    task = SaliencyTask(model, recompute=options.recompute, compiled=options.compile).to(options.device).train()
    optimizer = torch.optim.Adam(task.net.parameters(), lr=1e-3, fused=True)
    dtype = DTYPES[choose_precision(options.precision, options.device, task.net)]
    scaler = torch.amp.GradScaler(options.device, enabled=dtype == torch.float16)
    image, mask = batch_of(options.batch, options.size, options.device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(options.device, dtype, enabled=dtype is not None):
            total, _ = task.losses(image, mask)
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def work(make: Callable, options: argparse.Namespace, pipe: Connection) -> None:
    """Answers each message with the seconds of one step and the peak memory so far in GiB."""
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        step = make(options)
        while pipe.recv():
            start = time.perf_counter()
            step()
            if options.device == "cuda":
                torch.cuda.synchronize()
            pipe.send((time.perf_counter() - start, peak(options.device)))
    except torch.OutOfMemoryError:
        pipe.send(None)


def peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def start(make: Callable, options: argparse.Namespace) -> tuple[multiprocessing.Process, Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(make, options, there), daemon=True)
    process.start()
    there.close()
    return process, here


def ask(pipe: Connection) -> tuple[float, float] | None:
    """One step's seconds and peak memory; None where the batch does not fit."""
    try:
        pipe.send(True)
        return pipe.recv()
    except (EOFError, BrokenPipeError):
        return None


def compare(options: argparse.Namespace) -> None:
    running = {make.__name__: start(make, options) for make in (plain, ours)}
    times: dict[str, list[float]] = {name: [] for name in running}
    memory = {}
    for number in range(options.rounds + options.warmup):
        for name, (_, pipe) in running.items():
            answer = ask(pipe)
            if answer is None:
                raise SystemExit(f"{name}: a batch of {options.batch} does not fit into memory; try --batch.")
            seconds, memory[name] = answer
            if number >= options.warmup:
                times[name].append(seconds)
    for process, _ in running.values():
        process.kill()
    best = {name: min(taken) for name, taken in times.items()}
    ratios = sorted(a / b for a, b in zip(times["plain"], times["ours"], strict=True))
    print(
        f"| {options.width} {options.variant} | {options.batch} | {options.batch / best['plain']:.2f} "
        f"| {options.batch / best['ours']:.2f} | **{best['plain'] / best['ours']:.1f}** "
        f"({ratios[0]:.1f}-{ratios[-1]:.1f}) | {memory['plain']:.1f} | {memory['ours']:.1f} |{card(options, best)}",
        flush=True,
    )


def card(options: argparse.Namespace, best: dict[str, float]) -> str:
    """On a GPU: our part of its peak, and the largest batches that fit."""
    if options.device != "cuda":
        return ""
    net = U2Net(options.width, VARIANTS[options.variant])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, options.size, options.size))
    used = 3 * counter.get_total_flops() * options.batch / best["ours"]  # forward, and twice that backward
    largest = {make.__name__: largest_batch(make, options) for make in (plain, ours)}
    return f" {used / matrix_peak():.0%} | {largest['plain']} | {largest['ours']} |"


def matrix_peak(side: int = 8192, repeats: int = 50) -> float:
    """FLOP/s of this card's bf16 matrix product."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    return 2 * side**3 * repeats / (time.perf_counter() - start)


def largest_batch(make: Callable, options: argparse.Namespace) -> int:
    """By doubling and then halving the gap, to an eighth of the result."""
    fits, fails = 0, None
    count = options.batch
    while fails is None or fails - fits > max(1, fits // 8):
        process, pipe = start(make, argparse.Namespace(**vars(options) | {"batch": count}))
        answer = ask(pipe)
        process.kill()
        process.join()
        fits, fails = (count, fails) if answer else (fits, count)
        count = fits * 2 if fails is None else (fits + fails) // 2
    return fits


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", default="lite", choices=u2net.WIDTHS)
    parser.add_argument("--variant", choices=VARIANTS, help="kind of convolution; default: all, one after the other")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--size", type=int, default=288)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed ones")
    parser.add_argument("--threads", type=int, help="number of threads on a CPU")
    parser.add_argument("--device", default=device_of("auto"), choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="auto", help="precision of our step")
    parser.add_argument("--recompute", action="store_true", help="our step with activation checkpointing")
    parser.add_argument("--compile", action="store_true", help="our step with torch.compile")
    return parser.parse_args()


def main() -> None:
    options = parse()
    titles = ["net", "batch", "plain, images/s", "ours, images/s", "ratio", "plain, GiB", "ours, GiB"]
    if options.device == "cuda":
        print(torch.cuda.get_device_name())
        titles += ["of the card's peak", "plain, largest batch", "ours, largest batch"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|", flush=True)
    for variant in [options.variant] if options.variant else VARIANTS:
        compare(argparse.Namespace(**vars(options) | {"variant": variant}))


if __name__ == "__main__":
    main()
