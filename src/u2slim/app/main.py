"""The `u2slim` command."""

import argparse
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from u2slim import __version__
from u2slim.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a user's mistake ends in one sentence and status 1, Ctrl-C in 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be in no encoding
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of files that are read all the same
    try:
        words = sys.argv[1:] if arguments is None else arguments
        options = main_parser().parse_args(_with_margins(_with_folders(words)))
        status: int = options.run(options)
        if sys.stdout:
            sys.stdout.flush()
        return status
    except UserError as error:
        print(f"u2slim: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who reads what is printed, as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own end would fail, too
        return 141  # as of a program that the signal ends
    except OSError as error:  # as when the disk is full that is printed to
        print(f"u2slim: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"u2slim: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 128 + signal.SIGINT


def _sentence(error: OSError) -> str:
    """What the system refused, and what to do about it."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        remedy = "allow yourself to use it" if isinstance(error, PermissionError) else "mend it, or name another"
        return f"{os.fsdecode(error.filename)} cannot be used ({reason}); {remedy}."
    if isinstance(error, FileNotFoundError):  # of all that have no name only the working folder
        return "The folder that you are in is gone; change to another one."
    return f"Reading or printing failed ({reason}); make room, or use a file that can be read and written."


def main_parser() -> argparse.ArgumentParser:
    """Of all commands."""
    # This takes a moment, in which Ctrl-C shall end in a word, too.
    from u2slim.app import completion, cut, nets, serve, video, watch

    parser = argparse.ArgumentParser(
        "u2slim", description="Cut subjects out of photos, offline, with nets of a few MB."
    )
    parser.add_argument("--version", action="version", version=f"u2slim {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (cut, watch, video, serve, nets, completion):
        command.add_to(commands)
    return parser


def _with_folders(arguments: Sequence[str]) -> list[str]:
    """`-photo.jpg`, as a pattern of the shell's may bring it, is a file where there is one."""
    return [f"./{word}" if re.match(r"-.*\.\w+$", word) and Path(word).is_file() else word for word in arguments]


def _with_margins(arguments: Sequence[str]) -> list[str]:
    """`--crop photo.jpg` means no margin, and a photo."""
    return [
        "--crop=0" if word == "--crop" and not re.fullmatch(r"[\d.]+%?", following) else word
        for word, following in zip(arguments, [*arguments, ""][1:], strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
