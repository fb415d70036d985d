"""`memserve registry`: the registry by which instances find each other."""

import argparse
from typing import Any

from mempool.membership import cli

_EXAMPLE = """\
example, on one host and then for every instance:

  memserve registry --bind tcp://10.0.0.1:7600
  memserve instance ... -- --memserve-registries tcp://10.0.0.1:7600"""


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "registry",
        help="the registry by which instances find each other, in the foreground",
        description=cli.DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_flags(parser)
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    """Serves until a signal stops it."""
    return cli.run(args)
