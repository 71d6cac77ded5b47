"""`u2slim cut`: photos to cut-outs and masks."""

import argparse
import sys
from pathlib import Path

from u2slim.errors import UserError
from u2slim.runtime import ONNX_RUNTIMES
from u2slim.zoo.shipped import DEFAULT, SHIPPED

EXAMPLES = """\
examples:
  u2slim cut photo.jpg                        photo-cut.png beside the photo
  u2slim cut photo.jpg -o cut.png --refine guided
  u2slim cut album holiday/*.jpg -o results   results/cutouts/NAME.png and results/masks/NAME.png
  u2slim cut album -o results --mask only --net lite-half --runtime openvino
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser(
        "cut",
        help="cut the subjects out of photos",
        description="Cut the subjects out of photos: PNG files with transparency, masks, or both.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="photos, or folders with all photos below them")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="a folder, or a .png file for one photo; default: beside it"
    )
    parser.add_argument(
        "--net",
        default=DEFAULT,
        help=f"a shipped net ({', '.join(SHIPPED)}), a published one, an .onnx, .ckpt or .pth file, or last",
    )
    parser.add_argument(
        "--mask", choices=("also", "only"), help="write the mask, too, or nothing else; a folder gets both by default"
    )
    parser.add_argument("--refine", choices=("guided",), help="bring the mask's edges to the photo's")
    parser.add_argument("--colours", choices=("ml",), help="take the background's colours out of soft edges")
    parser.add_argument("--size", type=_count, help="the side in pixels to run the net at, where it can be chosen")
    parser.add_argument(
        "--runtime",
        default="auto",
        choices=("auto", *ONNX_RUNTIMES, "torch"),
        help="default: OpenCV for ONNX files, torch for others",
    )
    parser.add_argument("--threads", type=_count, help="for the net, all photos together; default: one a core")
    parser.add_argument("--workers", type=_count, help="photos at a time; default: one a core, at most 8")
    parser.add_argument("--no-stretch", action="store_true", help="do not stretch each mask to the full range")
    parser.add_argument("--redo", action="store_true", help="also photos that are done already")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options say; 1 if any photo failed."""
    from u2slim.cutout.batch import Cutter, cut_all, default_workers, earlier_results
    from u2slim.images.photos import find_all_photos
    from u2slim.images.refine import ForegroundML, GuidedFilter
    from u2slim.zoo import open_net

    if options.output == "":
        raise UserError("-o has no name: give a folder, or a .png file for one photo.")
    output = Path(options.output).expanduser() if options.output else None
    photos = find_all_photos(options.inputs, earlier_results(options.inputs, output))
    _check_output(output, options.inputs, len(photos))
    workers = min(options.workers or default_workers(len(photos)), len(photos))
    runner = open_net(options.net).runner(
        options.runtime, not options.no_stretch, workers, options.threads, options.size
    )
    if runner.labels and (options.refine or options.colours):
        raise UserError("--refine and --colours are for masks; this net tells classes apart: leave them out.")
    cutter = Cutter(
        runner,
        output,
        cutout=options.mask != "only",
        mask=options.mask is not None or Cutter.is_folder(output),
        refine=GuidedFilter() if options.refine else None,
        foreground=ForegroundML() if options.colours else None,
    )
    source = "\n".join(str(Path(given).expanduser().resolve()) for given in options.inputs)
    outcome = cut_all(cutter, source, photos, workers, options.redo)
    for reason in outcome.failed.values():
        print(f"u2slim: {reason}", file=sys.stderr)
    before = f" ({outcome.before} skipped, already done; --redo makes them again)" if outcome.before else ""
    where = str(output)
    if not cutter.into_folder:
        where = ", ".join(map(str, cutter.paths(*photos[0]))) if len(photos) == 1 else "beside the photos"
    where = f": {where}" if outcome.done else ""
    print(f"{outcome.done} of {_photos(len(photos))} done with {runner.runtime}{where}{before}")
    if outcome.failed:
        print(f"u2slim: {_photos(len(outcome.failed))} could not be cut out, as said above.", file=sys.stderr)
    return int(bool(outcome.failed))


def _photos(count: int) -> str:
    return f"{count} photo{'s' if count > 1 else ''}"


def _check_output(output: Path | None, inputs: list[str], photos: int) -> None:
    is_file = output is not None and output.suffix.lower() == ".png" and not output.is_dir()
    if is_file and photos > 1:
        raise UserError(f"-o {output} is one file for {photos} photos; give a folder.")
    if output is not None and output.suffix and not is_file and not output.is_dir() and photos == 1:
        raise UserError(f"-o {output} has another ending than .png: results are PNG files; a folder needs no ending.")
    if output is None and any(Path(given).expanduser().is_dir() for given in inputs):
        raise UserError("Say where the results of a folder go: -o FOLDER.")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1")
    return int(text)
