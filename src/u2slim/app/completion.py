"""`u2slim completion`: what a shell needs to complete the command."""

import argparse
from typing import Any

from u2slim.app.options import Commands, add_command

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
EXAMPLES = """\
  eval "$(u2slim completion bash)"                            in ~/.bashrc
  u2slim completion zsh > ~/.zfunc/_u2slim                    in a folder of $fpath
  u2slim completion fish > ~/.config/fish/completions/u2slim.fish
"""


def add_to(commands: Commands) -> None:
    """Add the command to a parser's."""
    about = "print what a shell needs to complete this command"
    add_command(commands, run, "completion", about, EXAMPLES).add_argument("shell", choices=SHELLS)


def run(options: argparse.Namespace) -> int:
    """Print it."""
    import shtab

    from u2slim.app.main import main_parser

    parser: Any = main_parser()
    for command in parser._subparsers._group_actions[0].choices.values():
        for action in command._actions:
            if action.dest in ("inputs", "clip", "output", "net", "background"):
                action.complete = shtab.FILE
            if action.dest == "folder":
                action.complete = shtab.DIRECTORY
    print(shtab.complete(parser, options.shell))
    return 0
