"""Compare training runs: the loss and metric curves in their CSV logs on one page, runs.png and runs.html.

python -m u2slim.report runs=outputs/train out=comparison
python -m u2slim.report 'runs=[outputs/demo/train,/data/older runs]' out=comparison
python -m u2slim.report 'runs=outputs/train-sweep/*' out=comparison
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from u2slim.errors import UserError
from u2slim.report.curves import write_report
from u2slim.report.runs import read_runs

SETTINGS = {
    "runs": "a folder, a list [A,B,...] or a glob; each is a run or has runs anywhere below it, and a run is a folder "
    "with config.yaml and csv/version_*/metrics.csv",
    "out": "the folder for runs.png and runs.html, made where it is missing",
}


def main() -> None:
    sys.stdout.reconfigure(errors="replace")  # for names of folders that are not UTF-8
    logging.basicConfig(format="%(levelname)s %(message)s")
    parser = argparse.ArgumentParser(
        "python -m u2slim.report",
        usage="python -m u2slim.report runs=FOLDERS out=FOLDER",
        description=__doc__,
        epilog="\n".join(f"{name}=  {meaning}" for name, meaning in SETTINGS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", help=argparse.SUPPRESS)
    try:
        settings = parse(parser.parse_args().settings)
        sources = settings["runs"]
        listed = sources.startswith("[") and sources.endswith("]") and not Path(sources).exists()
        runs = read_runs([part.strip() for part in sources[1:-1].split(",")] if listed else [sources])
        panels, written = write_report(runs, Path(settings["out"]))
    except UserError as error:
        parser.exit(1, f"{error}\n")
    print(f"Drew {', '.join(panels)} of {len(runs)} run{'s' * (len(runs) > 1)}:")
    for run in runs:
        print(f"  {run.label}: {run.folder}")
    print("Look at " + " or ".join(map(str, written)))


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """The settings of a command line, all of them given.

    Raises:
        UserError: one is missing, misspelt or empty.
    """
    settings = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in SETTINGS:
            raise UserError(f"{argument} is not a setting; give {' and '.join(f'{name}=' for name in SETTINGS)}.")
        settings[name] = value.strip()
    for name, meaning in SETTINGS.items():
        if not settings.get(name):
            raise UserError(f"Say {name}=, {meaning}.")
    return settings


if __name__ == "__main__":
    main()
