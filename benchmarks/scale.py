"""Photos a second, and what a million cost: python -m benchmarks.scale [--photos DIR] [--megapixels 0.12 2 12]

Times `u2slim cut` as a whole process, from start to exit, on generated photos or those of a folder, and takes the
fastest of a few runs. Other machines are not measured: their times follow from this machine's rate per processor, as if
theirs were as fast. Prices are list prices of one day. Give your own: --machine NAME CPUS DOLLARS.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.processes import CUT, SIZES, generate_apart, run

MILLION = 1_000_000
# Name, virtual processors, dollars an hour: Linux in us-east-1, without storage and traffic. The first two are from
# AWS's guide to Auto Scaling, "Spot price per unit hour example", as read in November 2026; the third is the list price
# of June 2026.
MACHINES = (
    ("AWS c5.4xlarge, on demand", 16, 0.68),
    ("AWS c5.4xlarge, spot", 16, 0.341),
    ("AWS m7g.large (Arm), on demand", 2, 0.0816),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of photos; default: generated ones")
    parser.add_argument(
        "--megapixels", nargs="+", choices=SIZES, default=["0.12", "2", "12"], help="sizes of generated photos"
    )
    parser.add_argument("--count", type=int, default=120, help="number of generated photos")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each, of which the fastest counts")
    parser.add_argument("--machine", nargs=3, action="append", metavar=("NAME", "CPUS", "DOLLARS"), default=[])
    parser.add_argument("options", nargs="*", help="options for u2slim cut after --, as -- --mask only --workers 2")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    machines = [*MACHINES, *((name, int(cpus), float(price)) for name, cpus, price in options.machine)]
    print(f"| photos | photos/s on {cores} processors | MiB | load before | a million here, hours |", end="")
    print("".join(f" {name}: hours, dollars |" for name, *_ in machines))
    print("|---" * (5 + len(machines)) + "|", flush=True)
    for megapixels in [str(options.photos)] if options.photos else options.megapixels:
        with tempfile.TemporaryDirectory() as folder:
            source = options.photos or Path(folder, "photos")
            if options.photos is None:
                generate_apart(source, megapixels, options.count)
            output = Path(folder, "results")
            command = [*CUT, str(source), "-o", str(output), "--manifest"]
            seconds, memory, load = min(once([*command, *options.options], output) for _ in range(options.rounds))
            count = sum(1 for _ in (output / "masks").rglob("*.png"))
        rate = count / seconds
        told = [
            f"{hours(rate * cpus / cores):.1f}, {hours(rate * cpus / cores) * price:.2f}" for _, cpus, price in machines
        ]
        what = f"{count} of {megapixels}" + ("" if options.photos else " megapixels")
        print(
            f"| {what} | {rate:.1f} | {memory:.0f} | {load:.1f} | {hours(rate):.1f} | {' | '.join(told)} |", flush=True
        )


def once(command: list[str], output: Path) -> tuple[float, float, float]:
    """Seconds, MiB, and how many processes wanted a processor before: others' take their share."""
    shutil.rmtree(output, ignore_errors=True)
    load = os.getloadavg()[0]
    return *run(command), load


def hours(rate: float) -> float:
    """That a million photos take at so many a second."""
    return MILLION / rate / 3600


if __name__ == "__main__":
    main()
