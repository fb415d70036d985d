"""`memserve`: one command, a file for each of its parts."""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable

from router.config.explain import ConfigError
from router.config.parser import Parser
from sglang_memserve.cli import (
    bench,
    calibrate,
    chat,
    completion,
    doctor,
    environment,
    explain,
    instance,
    registry,
    router,
    status,
    tenant_key,
    up,
)
from sglang_memserve.cluster.errors import ClusterError, UsageError
from sglang_memserve.model import ModelError

Command = Callable[[argparse.Namespace, list[str]], int]
_WRONG_USE = (UsageError, ConfigError, ModelError)


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 2 for a wrong flag, variable or value.

    What follows `--` goes to SGLang or the router as it is.
    """
    own, passed_on = _split(list(sys.argv[1:] if argv is None else argv))
    try:
        args = make_parser().parse_args(own)
        environment.check(os.environ)
        if passed_on and not getattr(args, "passes_on", False):
            raise UsageError(
                f"{passed_on[0]} after `--`: `memserve {args.name}` starts no SGLang to pass it to"
            )
        command: Command = args.command
        return command(args, passed_on)
    except (ClusterError, ConfigError, ModelError, OSError) as error:
        print(f"memserve: {error}", file=sys.stderr)
        return 2 if isinstance(error, _WRONG_USE) else 1
    except KeyboardInterrupt:
        return 130


def make_parser() -> Parser:
    parser = Parser(
        prog="memserve",
        description="SGLang, split into prefill and decode, with one KV cache.",
        epilog=environment.TABLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = importlib.metadata.version("sglang-memserve")
    parser.add_argument("--version", action="version", version=f"memserve {version}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="name")
    for part in (up, instance, router, registry, status, chat, explain, doctor, bench, calibrate, tenant_key):
        part.add_command(commands)
    completion.add_command(commands, make_parser)
    return parser


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """What is ours and what is passed on. `memserve router` takes the router's own flags without `--`."""
    if argv[:1] == ["router"]:
        return argv[:1], [arg for arg in argv[1:] if arg != "--"]
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
