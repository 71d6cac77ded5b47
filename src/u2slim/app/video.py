"""`u2slim video`: a clip to a clip of its subject."""

import argparse
import sys
from time import perf_counter

from u2slim.app.options import Commands, add_command, add_mask_options, add_net_options, chosen, open_runner, open_style
from u2slim.errors import UserError
from u2slim.files import user_path

EXAMPLES = """\
  u2slim video clip.mp4                           clip-cut.webm beside the clip, with transparency
  u2slim video clip.mp4 -o cut.mov --steady       ProRes 4444 with transparency, for editing
  u2slim video clip.mp4 -o call.mp4 --background blur
"""
BREAKS_OFF = 0.9  # a clip with so small a part of the frames that its head tells of
MANY = 300  # frames of a clip that does not say how many it has, by which the runtime is chosen


def add_to(commands: Commands) -> None:
    """Add the command to a parser's."""
    about = "cut the subject out of a clip, with its times and its sound"
    parser = add_command(commands, run, "video", about, EXAMPLES)
    parser.add_argument("clip", metavar="CLIP", help="a clip in any format that FFmpeg reads")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help=".webm (VP9) and .mov (ProRes 4444) have transparency, .mp4 (H.264) needs a --background; default: "
        "CLIP-cut.webm",
    )
    add = parser.add_argument_group("what is written").add_argument
    add(
        "--background",
        metavar="COLOUR|FILE|blur",
        help="put the subject over a colour, a picture or the blurred clip; default: transparency",
    )
    add("--steady", action="store_true", help="average masks over time, following what moves, for less flicker")
    add("--no-sound", action="store_true", help="leave out the sound")
    add_mask_options(parser)
    add_net_options(parser)


def run(options: argparse.Namespace) -> int:
    """Do what the options say."""
    from u2slim.cutout.steady import FrameMasks, Steady
    from u2slim.cutout.video import Clip, coding_for, cut_video
    from u2slim.terminal import bar

    source = user_path(options.clip)
    output = user_path(options.output) if options.output else source.with_name(f"{source.stem}-cut.webm")
    coding_for(output, options.background is not None)  # before a net is loaded
    if output.is_dir():
        raise UserError(f"-o {options.output} is a folder: give a file's name.")
    if output.resolve() == source.resolve() or (output.exists() and source.exists() and output.samefile(source)):
        raise UserError(f"-o {options.output} is the clip itself; choose another name.")
    with Clip(source) as clip:
        style, runner = open_style(options), chosen(options, open_runner(options, clip.length or MANY, 1))
        if runner.labels:
            raise UserError(
                f"--net {options.net} tells classes apart: choose the mask's classes with --class, from "
                f"{', '.join(runner.labels['names'])}; or give a net that makes masks."
            )
        start = perf_counter()
        masks = FrameMasks(runner, Steady() if options.steady else None)
        length = clip.length
        with bar("cutting out", length) as advance:
            film = cut_video(clip, output, style, masks, not options.no_sound, advance)
    seconds = perf_counter() - start
    if film.damaged:
        print(f"{source}: {_frames(film.damaged)} damaged", file=sys.stderr)
    if length and film.frames < BREAKS_OFF * length:
        print(f"{source} should have about {length} frames, but only {film.frames} can be read", file=sys.stderr)
    if film.empty:
        print(f"no subject in {film.empty} of {_frames(film.frames)}: their masks are empty", file=sys.stderr)
    again = f", {film.reused} of them with the previous frame's mask, as nothing moved," if film.reused else ""
    print(
        f"{_frames(film.frames)} done with {runner.runtime}{again} at {film.frames / seconds:.1f} a second: "
        f"{output} ({film.coding.name}, {film.sound})"
    )
    return 0


def _frames(number: int) -> str:
    return f"{number} frame{'s' if number > 1 else ''}"
