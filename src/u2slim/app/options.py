"""Options that the commands share, and what they mean."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from u2slim.errors import UserError
from u2slim.images.metadata import KINDS
from u2slim.images.preprocess import SCALES, given_preprocess
from u2slim.images.write import FORMATS
from u2slim.remote import Place
from u2slim.runtime import ONNX_RUNTIMES, PHONE_RUNTIMES, ROUNDING_RUNTIMES, fastest_runtime
from u2slim.zoo.shipped import DEFAULT, SHIPPED

if TYPE_CHECKING:
    from u2slim.cutout.cutter import Cutter
    from u2slim.cutout.single import Style
    from u2slim.runtime import Runner

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run = Callable[[argparse.Namespace], int]

MARGIN = "a margin in pixels, as 20, or in per cent of the subject, as 10%"


def add_command(commands: Commands, run: Run, name: str, about: str, examples: str) -> argparse.ArgumentParser:
    """The parser of a command, whose help begins with what it is about and ends with examples."""
    parser = commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which net, how it runs, and what becomes of a photo."""
    add_picture_options(parser)
    add = add_net_options(parser).add_argument
    add("--workers", type=count, metavar="N", help="photos processed at once; default: one per core, at most 8")


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """What becomes of a photo."""
    add = parser.add_argument_group("what is written").add_argument
    add("--mask", choices=("also", "only"), help="write the mask, too, or only the mask; a folder gets both by default")
    add(
        "--background",
        metavar="COLOUR|FILE|blur",
        help="put the subject over a colour, a picture or the blurred photo, in sRGB; default: transparency",
    )
    add("--format", choices=FORMATS, help="default: the ending of OUT, or png; jpeg is over white without --background")
    add(
        "--crop",
        nargs="?",
        const=0,
        type=_margin,
        metavar="MARGIN",
        help="crop to the subject, with a margin in pixels, or, as 10%%, in per cent of its longer side",
    )
    add(
        "--keep",
        type=_kept,
        metavar="KINDS",
        help="which metadata to keep: exif, icc and dpi, as exif,icc, or none; default: icc",
    )
    add("--srgb", action="store_true", help="convert the colours to sRGB by the photo's profile")
    add_mask_options(parser)


def add_mask_options(parser: argparse.ArgumentParser) -> None:
    """How the mask is made."""
    add = parser.add_argument_group("how the mask is made").add_argument
    add(
        "--border",
        type=_border,
        default=0.0,
        metavar="N",
        help="first add a border of N %% of the longer side round the photo: for close-ups only",
    )
    add("--refine", choices=("guided",), help="move the mask's edges to the photo's edges")
    add("--largest", action="store_true", help="keep only the largest connected part of the mask")
    add("--threshold", type=_fraction, metavar="T", help="no soft edges: black and white at T, from 0 to 1")
    add("--colours", choices=("ml",), help="remove the background's colours from soft edges")
    add("--no-stretch", action="store_true", help="do not stretch each mask to the full range from black to white")
    add(
        "--class",
        dest="classes",
        type=_names,
        metavar="NAMES",
        help="for a net that tells classes apart: make the mask of these classes, as car,bus",
    )


def add_net_options(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """Which net and how it runs, in a group that can take more."""
    group = parser.add_argument_group("what runs")
    add = group.add_argument
    add(
        "--net",
        default=DEFAULT,
        metavar="NAME|FILE",
        help=f"{', '.join(SHIPPED)}, u2netp, another that u2slim nets lists, an .onnx, .ckpt, .pth, .param or "
        f".tflite file, or last, the newest training run's; default: {DEFAULT}",
    )
    add(
        "--mean",
        metavar="R,G,B",
        help="mean of the input, for an .onnx file that does not store it; with --std and --scale",
    )
    add("--std", metavar="R,G,B", help="standard deviation of the input, for such a file")
    add(
        "--scale",
        choices=SCALES,
        help="what pixels of 0..255 are divided by before --mean and --std; maximum: the largest of the image",
    )
    add("--size", type=side, metavar="N", help="side of the net's input in pixels, where it can be chosen")
    add(
        "--runtime",
        default="auto",
        choices=("auto", *ONNX_RUNTIMES, *ROUNDING_RUNTIMES, "torch", *PHONE_RUNTIMES),
        help="what runs the net; default: the fastest one installed for the number of photos; openvino-bf16 rounds to "
        "bfloat16, which some processors are quicker with; torch for .ckpt and .pth files, ncnn for .param, litert for "
        ".tflite",
    )
    add(
        "--device",
        metavar="NAME",
        help="cpu, cuda or another name that the runtime knows; default: cpu, or the GPU for torch",
    )
    add(
        "--threads",
        type=count,
        metavar="N",
        help="threads that the net uses for all photos together; default: one per core",
    )
    return group


def open_cutter(
    options: argparse.Namespace, output: Place | None, is_file: bool, photos: int, workers: int
) -> "Cutter":
    """What does the options' work on so many photos.

    Raises:
        UserError: options that do not go together, or a net, runtime or background that there is not.
    """
    check(options)
    return make_cutter(options, open_runner(options, photos, workers), output, is_file)


def open_runner(options: argparse.Namespace, photos: float, workers: int) -> "Runner":
    """The net in the runtime that is quickest for so many photos, for `workers` threads at once.

    Raises:
        UserError: a net or runtime that there is not.
    """
    from u2slim.zoo import open_net

    handle = open_net(options.net, given_preprocess(options.mean, options.std, options.scale))
    runtime = options.runtime
    if runtime == "auto" and handle.onnx_path() is not None:
        runtime = fastest_runtime(photos)
    return handle.runner(runtime, not options.no_stretch, workers, options.threads, options.size, options.device)


def make_cutter(
    options: argparse.Namespace,
    runner: "Runner",
    output: Place | None = None,
    is_file: bool = False,
    files: bool = True,
) -> "Cutter":
    """What does the work of options that `check` let pass, with a net that is open.

    Args:
        options: of `add_picture_options`.
        runner: of the net.
        output, is_file: see `Cutter`.
        files: whether a background may be a picture's file.

    Raises:
        UserError: a background that there is not, or options that are not for this net.
    """
    from u2slim.cutout.cutter import Cutter
    from u2slim.cutout.single import Style

    style = replace(open_style(options, files), crop=options.crop)
    runner = chosen(options, runner)
    if runner.labels and style != Style():
        raise UserError(
            "This net tells classes apart. --border, --refine, --largest, --threshold, --colours, --background and "
            "--crop are for masks: leave them out, or choose the mask's classes with --class, from "
            f"{', '.join(runner.labels['names'])}."
        )
    into_folder = output is not None and not is_file
    wants_mask = options.mask is not None or into_folder
    keep = ("icc",) if options.keep is None else options.keep
    kind = FORMATS[options.format or "png"]
    return Cutter(runner, output, is_file, options.mask != "only", wants_mask, style, kind, keep, options.srgb)


def chosen(options: argparse.Namespace, runner: "Runner") -> "Runner":
    """The runner, or where --class names classes one that makes masks of these.

    Raises:
        UserError: the net has no such class, or tells none apart.
    """
    from u2slim.runtime.class_masks import ClassMasks

    return runner if options.classes is None else ClassMasks(runner, options.classes)


def open_style(options: argparse.Namespace, files: bool = True) -> "Style":
    """How masks and cut-outs look by the options, but for --crop.

    Raises:
        UserError: a background that there is not.
    """
    from u2slim.cutout.backgrounds import open_background, plain_background
    from u2slim.cutout.single import Style
    from u2slim.images.refine import ForegroundML, GuidedFilter

    opened = open_background if files else plain_background
    return Style(
        options.border,
        GuidedFilter() if options.refine else None,
        options.largest,
        options.threshold,
        ForegroundML() if options.colours else None,
        None if options.background is None else opened(options.background),
    )


def check(options: argparse.Namespace) -> None:
    """Raise a UserError for options of `add_picture_options` that do not go together."""
    if options.mask == "only":
        useless = {"--background": options.background, "--colours": options.colours, "--keep": options.keep}
        if given := [name for name, value in useless.items() if value is not None]:
            raise UserError(f"{given[0]} is for cut-outs, and --mask only writes none: leave one of them out.")
    if options.srgb and "icc" in (options.keep or ()):
        raise UserError(
            "--srgb changes the colours, so the photo's profile no longer fits: leave icc out of --keep, or --srgb out."
        )
    if options.background is not None and "icc" in (options.keep or ()):
        raise UserError(
            "With --background the result is in sRGB, so the photo's profile no longer fits: leave icc out of --keep."
        )
    if "dpi" in (options.keep or ()) and not FORMATS[options.format or "png"].has_dpi:
        raise UserError(f"{options.format} files cannot store dpi: leave it out of --keep, or choose png.")


def count(text: str, most: int = 1024) -> int:
    """A whole number from 1, of threads or photos."""
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 to {most}")
    return int(text)


def side(text: str) -> int:
    """The same, of pixels."""
    return count(text, 4096)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, map(str.strip, text.split(","))))
    if not names:
        raise argparse.ArgumentTypeError("give the names of classes, with commas between")
    return names


def _fraction(text: str) -> float:
    return _number(text, 1, "a number from 0 to 1")


def _border(text: str) -> float:
    return _number(text.removesuffix("%"), 100, "a number of per cent, from 0 to 100") / 100


def _number(text: str, largest: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= largest:
        raise argparse.ArgumentTypeError(f"{text}: give {what}")
    return number


def _margin(text: str) -> int | float:
    if text.endswith("%"):
        return _number(text[:-1], 1000, MARGIN) / 100
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text}: give {MARGIN}")
    return int(text)


def _kept(text: str) -> tuple[str, ...]:
    kinds = () if text == "none" else tuple(text.replace(" ", "").lower().split(","))
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]}: give some of {', '.join(KINDS)}, with commas between, or none")
    return kinds
