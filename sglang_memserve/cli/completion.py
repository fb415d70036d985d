"""`memserve completion`: a script that completes commands and flags in a shell."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang_memserve.cli.output import show

_SHELLS = ("bash", "zsh", "tcsh")


def add_command(commands: Any, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """`whole`: makes the parser of all commands."""
    parser = commands.add_parser(
        "completion",
        help="a script that completes commands and flags in a shell",
        description='Prints the script, for example: eval "$(memserve completion bash)"',
    )
    parser.add_argument("shell", choices=_SHELLS)

    def run(args: argparse.Namespace, passed_on: list[str]) -> int:
        show(script(whole(), args.shell))
        return 0

    parser.set_defaults(command=run)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What the shell is to run."""
    import shtab

    _complete_files(parser, shtab.FILE)
    text: str = shtab.complete(parser, shell)
    return text


def _complete_files(parser: argparse.ArgumentParser, files: Any) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, files)
        elif action.type is Path:
            action.complete = files  # type: ignore[attr-defined]
