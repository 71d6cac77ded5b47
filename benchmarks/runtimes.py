"""Which runtime finishes first, from start to exit: python -m benchmarks.runtimes [--net NAME] [--counts 1 4 16 64]

Times `u2slim cut` in each installed runtime on folders of so many photos, in turns; loading counts. The table is what
`fastest_runtime` chooses by.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.processes import CUT, SIZES, generate_apart, in_turns
from u2slim.runtime import installed_runtimes
from u2slim.zoo import DEFAULT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--net", nargs="+", default=[DEFAULT])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--megapixels", default="0.12", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runtimes = installed_runtimes()
    print(f"| net | photos | {' | '.join(f'{name}, seconds, MiB' for name in runtimes)} |")
    print(f"|---|---|{'---|' * len(runtimes)}", flush=True)
    for net in options.net:
        for count in options.counts:
            with tempfile.TemporaryDirectory() as folder:
                generate_apart(Path(folder, "photos"), options.megapixels, count)
                command = [*CUT, f"{folder}/photos", "--net", net]
                commands = {name: [*command, "-o", f"{folder}/out/{name}", "--runtime", name] for name in runtimes}
                taken = in_turns(commands, options.rounds if count < 16 else 2, Path(folder, "out"))
            cells = [f"{seconds:.2f}, {memory:.0f}" for seconds, memory in taken.values()]
            print(f"| {net} | {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
