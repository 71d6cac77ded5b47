"""`u2slim watch`: what is put into a folder is cut out."""

import argparse
import signal
import sys
from contextlib import suppress
from pathlib import Path

from u2slim.app.options import Commands, add_command, add_options, open_cutter
from u2slim.errors import UserError
from u2slim.files import real_path, user_path

AT_ONCE = 8  # photos that may come, by which the runtime and the workers are chosen
EXAMPLES = """\
  u2slim watch inbox -o results                   until Ctrl-C
  u2slim watch inbox -o shop --background white --format jpeg
"""


def add_to(commands: Commands) -> None:
    """Add the command to a parser's."""
    about = "cut out the photos in a folder and those added later, until Ctrl-C"
    parser = add_command(commands, run, "watch", about, EXAMPLES)
    parser.add_argument("folder", metavar="FOLDER", help="the folder to watch, with the folders in it")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the folder for the results")
    add_options(parser)


def run(options: argparse.Namespace) -> int:
    """Watch until Ctrl-C or SIGTERM, which are the usual ends."""
    from u2slim.cutout.batch import default_workers
    from u2slim.cutout.manifest import there_is_one
    from u2slim.cutout.watching import watch

    folder, output = user_path(options.folder), user_path(options.output or ".")
    if not options.folder or not folder.is_dir():
        raise UserError(f"There is no folder {options.folder} to watch.")
    if options.output == "" or output.is_file() or real_path(output) == real_path(folder):
        raise UserError(f"-o {options.output} is no place for the results: give another folder than the watched one.")
    if there_is_one(output):
        raise UserError(
            f"-o {options.output} has a manifest of u2slim cut, which watch would not update: give another folder."
        )
    workers = options.workers or default_workers(AT_ONCE)
    cutter = open_cutter(options, output, False, AT_ONCE, workers)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"watching {folder} with {cutter.runner.runtime}, results in {output}; Ctrl-C ends it", flush=True)
    counts = {"done": 0, "failed": 0}

    def report(photo: Path, reason: str) -> None:
        counts["failed" if reason else "done"] += 1
        print(f"u2slim: {reason}" if reason else photo, file=sys.stderr if reason else sys.stdout, flush=True)

    with suppress(KeyboardInterrupt):
        watch(cutter, folder, workers, report)
    print(f"{counts['done']} done, {counts['failed']} failed: {output}")
    return 0
