"""What a batch axis buys: python -m benchmarks.batch [--batches 4 8] [--runtimes onnxruntime openvino]

How many times as fast a photo is in a batch as alone in a file for one. A batch is either full of photos, or one photo
repeated to fill it up; files that leave the number open are timed, too. All take turns, after one round to warm up, and
medians count.
"""

import argparse
import tempfile
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter

from u2slim.data.sample import render
from u2slim.runtime import ONNX_RUNTIMES, onnx_runner
from u2slim.runtime.onnx_writer import write_onnx
from u2slim.zoo import open_net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--net", default="lite-half")
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--runtimes", nargs="+", choices=ONNX_RUNTIMES, default=list(ONNX_RUNTIMES))
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds, at least 1")
    options = parser.parse_args()
    net, photos = open_net(options.net).net(), [render(0, index)[0] for index in range(max(options.batches))]
    print("| runtime | photos | together | alone | open, together | open, alone |\n" + "|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for batch in (1, None, *options.batches):
            write_onnx(net, net.preprocess.size, Path(folder, f"{batch}.onnx"), batch=batch)
        for runtime, n in product(options.runtimes, options.batches):  # not all at once: onnxruntime fills gigabytes
            turns = (1, 1), (n, n), (n, 1), (None, n), (None, 1)
            runners = {turn: onnx_runner(Path(folder, f"{turn[0]}.onnx"), runtime) for turn in turns}
            runners[n, 1] = runners[n, n]
            seconds: dict[tuple, list[float]] = {turn: [] for turn in turns}
            for _ in range(options.rounds + 1):
                for (batch, count), runner in runners.items():
                    runner.together, start = count, perf_counter()
                    runner.small_masks(photos[:count])
                    seconds[batch, count].append((perf_counter() - start) / count)
            gain = {turn: median(seconds[1, 1][1:]) / median(taken[1:]) for turn, taken in seconds.items()}
            print(f"| {runtime} | {n} | {' | '.join(f'{gain[turn]:.2f}' for turn in turns[1:])} |", flush=True)


if __name__ == "__main__":
    main()
