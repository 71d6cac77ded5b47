"""What a GPU does with nets of ours, in one table of at most ten minutes: python -m benchmarks.gpu > FILE

First training steps at full width, which benchmarks.train_step explains, plain and compiled. Then nets that answer:
photos a second of a batch, and the milliseconds of one photo. They run in PyTorch in float32 without TF32, in float16,
and compiled into CUDA graphs, and in onnxruntime (`pip install onnxruntime-gpu`). The last column is the largest
difference of a mask from the one in float32, which shows that nothing turns black in float16.
`python -m benchmarks.loader` says what feeds the card. With `--device cpu` all is tried without one.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import torch
from torch import Tensor

from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.models import Net
from u2slim.runtime import onnx_runner
from u2slim.runtime.onnx_writer import DeployedNet, write_onnx
from u2slim.sizes import sides
from u2slim.zoo import open_net

Answer = Callable[[Tensor], Tensor]  # from RGB 0..255 (B, 3, H, W) to masks (B, 1, H, W)


def seconds(work: Callable[[], object], device: str, rounds: int) -> float:
    """The least of so many rounds, after two that do not count."""
    taken = []
    for _ in range(rounds + 2):
        start = perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(perf_counter() - start)
    return min(taken[2:])


def in_torch(net: Net, device: str, compiled: bool) -> Iterator[tuple[str, Answer]]:
    whole = DeployedNet(net, "embedded").to(device).eval()
    half = torch.float16 if device == "cuda" else torch.bfloat16
    contexts = {"float32": nullcontext(), str(half).removeprefix("torch."): torch.autocast(device, half)}
    runs = {"": whole} | ({", compiled": torch.compile(whole, mode="reduce-overhead")} if compiled else {})
    for (way, context), (note, run) in product(contexts.items(), runs.items()):

        def answer(image: Tensor, run=run, context=context) -> Tensor:
            with torch.no_grad(), context:
                return run(image)[0].float()

        yield f"torch, {way}{note}", answer


def in_onnxruntime(net: Net, device: str, batch: int, folder: Path) -> Answer:
    """Batches of `batch` in onnxruntime."""
    path = folder / "net.onnx"
    write_onnx(net, net.preprocess.size, path, batch=batch)
    runner = onnx_runner(path, "onnxruntime", device=device)
    return lambda image: torch.from_numpy(runner.infer_group([*image.permute(0, 2, 3, 1).cpu().numpy()])[:, None])


def images(net: Net, count: int, device: str) -> Tensor:
    height, width = sides(net.preprocess.size, "size")
    photos = np.stack([cv2.resize(render(0, index)[0], (width, height)) for index in range(count)])
    return torch.from_numpy(photos).permute(0, 3, 1, 2).float().to(device)


def answers(name: str, options: argparse.Namespace) -> None:
    net = open_net(name).net().eval()
    many, one = images(net, options.batch, options.device), images(net, 1, options.device)
    expected: Tensor | None = None

    def row(what: str, run_many: Answer, run_one: Answer) -> None:
        nonlocal expected
        masks = run_many(many).cpu()
        expected = masks if expected is None else expected
        rate = options.batch / seconds(lambda: run_many(many), options.device, options.rounds)
        latency = 1000 * seconds(lambda: run_one(one), options.device, options.rounds)
        apart = float((masks - expected).abs().max())
        print(f"| {name} | {what} | {rate:.1f} | {latency:.1f} | {apart:.1g} |", flush=True)

    for what, answer in in_torch(net, options.device, options.compile):
        row(what, answer, answer)
    with tempfile.TemporaryDirectory() as folder:
        try:
            runs = [in_onnxruntime(net.cpu(), options.device, batch, Path(folder)) for batch in (options.batch, 1)]
        except UserError as error:
            print(f"| {name} | onnxruntime: {error} | | | |", flush=True)
        else:
            row("onnxruntime, float32", *runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--nets", nargs="+", default=["u2netp", "lite-two-thirds", "isnet-s"], metavar="NAME")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-train", dest="train", action="store_false", help="leave out the training steps")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out what is compiled")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "There is no GPU here that PyTorch can use; --device cpu tries the command without one.\n")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if options.train:
        step = [sys.executable, "-m", "benchmarks.train_step", "--width", "full", "--device", options.device]
        for words in ([], ["--variant", "standard", "--compile"])[: 1 + options.compile]:
            subprocess.run([*step, *words], check=True)
            print(flush=True)
    print("| net | how | photos a second | ms of one photo | largest difference |\n" + "|---" * 5 + "|", flush=True)
    for name in options.nets:
        answers(name, options)


if __name__ == "__main__":
    main()
