"""`u2slim cut`: photos to cut-outs and masks."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from u2slim.app.options import Commands, add_command, add_options, open_cutter
from u2slim.errors import UserError
from u2slim.files import real_path, user_path
from u2slim.images.write import ENDINGS, format_of

if TYPE_CHECKING:
    from u2slim.cutout.cutter import Cutter, Made

PIPE = "-"
SHOWN = 5  # names of photos without a subject
EXAMPLES = """\
  u2slim cut photo.jpg                            photo-cut.png beside the photo
  u2slim cut photo.jpg -o cut.webp --crop 20      the format by the ending
  u2slim cut album 'holiday/*.jpg' -o results     results/cutouts/NAME.png and results/masks/NAME.png
  u2slim cut album -o shop --background white --format jpeg --keep exif,icc
  u2slim cut album -o results --mask only --net lite-half --json > facts.jsonl
  cat photo.jpg | u2slim cut - > cut.png          a pipe
"""


def add_to(commands: Commands) -> None:
    """Add the command to a parser's."""
    about = "cut the subjects out of photos: pictures with transparency, masks, or both"
    parser = add_command(commands, run, "cut", about, EXAMPLES)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="photos, folders with all photos below them, patterns, or - for standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="a folder, for one photo also a file, or - for standard output; default: NAME-cut.png beside each photo",
    )
    add_options(parser)
    parser.add_argument("--redo", action="store_true", help="also photos that are done already")
    parser.add_argument("--json", action="store_true", help="print one line a photo: box, share, confidence, seconds")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; 1 if any photo failed."""
    if options.output == "":
        raise UserError("-o has no name: give a folder, or a file for one photo.")
    from u2slim.images.photos import closed_sentence, expanded, find_all_photos, others_named

    options.inputs = expanded(options.inputs)
    if PIPE in options.inputs or options.output == PIPE:
        return _pipe(options)
    from u2slim.cutout.batch import cut_all, default_workers, earlier_results

    output = user_path(options.output) if options.output else None
    is_file = output is not None and _is_file(options, output)
    if output is not None and output.exists() and not (output.is_dir() or is_file):
        raise UserError(f"-o {options.output} is a file that is no picture: give a folder, or a picture's name.")
    earlier = earlier_results(options.inputs, output)
    photos, results, no_photos, linked, closed = find_all_photos(options.inputs, earlier, output is None)
    if results:
        print(f"passed over, as results of photos beside them: {_first(results)}", file=sys.stderr)
    if no_photos:
        print(f"passed over, as no photos: {others_named(no_photos)}", file=sys.stderr)
    if linked:
        print(f"passed over, as links to folders, unless you name them: {_first(linked)}", file=sys.stderr)
    if is_file and len(photos) > 1:
        raise UserError(f"-o {options.output} is one file for {len(photos)} photos; give a folder.")
    workers = min(options.workers or default_workers(len(photos)), len(photos))
    cutter = open_cutter(options, output, is_file, len(photos), workers)
    source = "\n".join(str(real_path(user_path(given))) for given in options.inputs)
    report = _print_facts if options.json else None
    outcome = cut_all(cutter, source, photos, workers, options.redo, report, progress=not options.json)
    for reason in [*outcome.failed.values(), *map(closed_sentence, closed)]:
        print(f"u2slim: {reason}", file=sys.stderr)
    if outcome.empty:
        print(f"no subject in {_first(sorted(outcome.empty), SHOWN)}: the mask is empty", file=sys.stderr)
    before = f" ({outcome.before} skipped, already done; --redo makes them again)" if outcome.before else ""
    where = f": {_where(cutter, photos)}" if outcome.done else ""
    print(
        f"{outcome.done} of {_photos(len(photos))} done with {cutter.runner.runtime}{where}{before}",
        file=sys.stderr if options.json else sys.stdout,
    )
    if outcome.failed:
        print(f"u2slim: {_photos(len(outcome.failed))} could not be cut out, as said above.", file=sys.stderr)
    return int(bool(outcome.failed or closed))


def _is_file(options: argparse.Namespace, output: Path) -> bool:
    """Whether OUT is a file; what it is if it is there, and else what its name says."""
    if output.is_dir() or options.output.endswith(("/", "\\")) or not output.suffix:
        return False
    if (kind := format_of(output)) is None:
        if len(options.inputs) > 1 or not user_path(options.inputs[0]).is_file():
            return False  # which it can only be for several
        raise UserError(
            f"-o {options.output} could be a file or a folder: end it in {', '.join(ENDINGS)} for a file, in / for a "
            "folder."
        )
    if options.format not in (None, kind.name):
        raise UserError(f"-o {options.output} is no {options.format} file: leave out --format, or change the ending.")
    options.format = kind.name
    return True


def _pipe(options: argparse.Namespace) -> int:
    """One photo from standard input or to standard output."""
    from u2slim.cutout.cutter import attempt, spare_inputs, write_files
    from u2slim.images.read import Loaded, load

    if len(options.inputs) > 1 or Path(options.inputs[0]).is_dir():
        raise UserError("A pipe takes one photo: leave out the others, or have no - among inputs and outputs.")
    output = user_path(options.output) if options.output not in (None, PIPE) else None
    if output is not None and not _is_file(options, output):
        raise UserError(f"-o {options.output} is no name of a picture: say which file the photo of the pipe becomes.")
    if output is None and options.mask == "also":
        raise UserError("A pipe has room for one picture: give -o FILE for the cut-out and its mask, or --mask only.")
    if output is None and options.json:
        raise UserError("--json and the picture would both go to standard output: give -o FILE.")
    if output is None and (sys.stdout is None or sys.stdout.isatty()):
        raise UserError("There is no pipe or file that the picture could go to: add > FILE, or -o FILE.")
    given = options.inputs[0]
    if given == PIPE and (sys.stdin is None or sys.stdin.isatty()):
        raise UserError("Nothing is piped in: give a photo's name instead of -, or write cat photo.jpg | u2slim cut -")
    photo = Loaded("standard input", sys.stdin.buffer.read()) if given == PIPE else load(str(user_path(given)))
    cutter = open_cutter(options, output or Path(PIPE), True, 1, 1)
    if output is not None:
        spare_inputs(cutter, [(Path(photo.name), Path(photo.name))])
    made = attempt(cutter, photo)
    if isinstance(made, str):
        raise UserError(made)
    if made.is_empty:
        print(f"no subject in {photo.name}: the mask is empty", file=sys.stderr)
    if output is None:
        sys.stdout.buffer.write(made.files[0])
        sys.stdout.buffer.flush()
        return 0
    paths = cutter.paths(Path(photo.name), Path(photo.name))
    write_files(paths, made.files)
    if options.json:
        _print_facts(photo.name, paths, made)
    print(f"1 of 1 photo done with {cutter.runner.runtime}: {', '.join(map(str, paths))}", file=sys.stderr)
    return 0


def _print_facts(photo: Path | str, paths: list[Path], made: "Made | str | None") -> None:
    if isinstance(made, str):
        told: dict[str, object] = {"error": made}
    else:
        told = {"files": list(map(str, paths)), **(made.facts() if made else {"skipped": True})}
    print(json.dumps({"photo": str(photo), **told}), flush=True)


def _where(cutter: "Cutter", photos: list[tuple[Path, Path]]) -> str:
    if cutter.into_folder:
        return str(cutter.output)
    return ", ".join(map(str, cutter.paths(*photos[0]))) if len(photos) == 1 else "beside the photos"


def _first(paths: Sequence[str | Path], most: int = 1) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return f"{', '.join(map(str, paths[:most]))}{more}"


def _photos(number: int) -> str:
    return f"{number} photo{'s' if number > 1 else ''}"
