"""`memserve`: one command, a file for each of its parts."""

import argparse
import importlib.metadata
import sys
from collections.abc import Callable

from sglang_memserve.cli import bench, calibrate, doctor, explain, instance, router, status, up
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.model import ModelError

Command = Callable[[argparse.Namespace, list[str]], int]


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code. What follows `--` goes to SGLang or the router as it is."""
    own, passed_on = _split(list(sys.argv[1:] if argv is None else argv))
    try:
        args = _parser().parse_args(own)
        command: Command = args.command
        return command(args, passed_on)
    except (ClusterError, ModelError, OSError) as error:
        print(f"memserve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memserve", description="SGLang, split into prefill and decode, with one KV cache."
    )
    version = importlib.metadata.version("sglang-memserve")
    parser.add_argument("--version", action="version", version=f"memserve {version}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for part in (up, instance, router, status, explain, doctor, bench, calibrate):
        part.add_command(commands)
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
