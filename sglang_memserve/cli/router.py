"""`memserve router`: the router, with all of its own flags."""

import argparse
from typing import Any

from router.config.flags import make_parser


def add_command(commands: Any) -> None:
    # What follows `memserve router` is for the parser below, which adds its own --help. Shown here, the flags
    # can be completed.
    parser = commands.add_parser(
        "router",
        add_help=False,
        parents=[make_parser(add_help=False)],
        help="the router, in the foreground (see memserve router --help)",
    )
    parser.set_defaults(command=run, passes_on=True)


def run(args: argparse.Namespace, flags: list[str]) -> int:
    """Serves until a signal stops it; `flags` are those of `python -m router.launch_router`."""
    from router.launch_router import main

    return int(main(flags) or 0)
