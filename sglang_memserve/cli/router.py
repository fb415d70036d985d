"""`memserve router`: the router, with all of its own flags."""

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "router", add_help=False, help="the router, in the foreground (see memserve router --help)"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, flags: list[str]) -> int:
    """Serves until told to stop; `flags` are those of `python -m router.launch_router`."""
    from router.launch_router import main

    return int(main(flags) or 0)
