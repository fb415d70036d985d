"""`memserve instance`: one SGLang server in this terminal."""

import argparse
import asyncio
import os
from typing import Any

from sglang_memserve.cli.engine import PUT_AFTER, require_engine
from sglang_memserve.cluster.errors import UsageError
from sglang_memserve.cluster.sglang_flags import check_flags
from sglang_memserve.cluster.spec import InstanceSpec
from sglang_memserve.model import resolve_model

_PORT = 30001
_BOOTSTRAP_PORT = 8998
_FLAGS_S = 300.0


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "instance",
        help="one SGLang instance, in the foreground",
        description="Runs one SGLang instance in the foreground. Flags of SGLang go after `--`.",
        passed_on=PUT_AFTER,
    )
    parser.add_argument("--role", required=True, choices=("prefill", "decode", "colocated"))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=_PORT, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--bootstrap-port",
        type=int,
        help=f"where decode instances find a prefill instance (default: {_BOOTSTRAP_PORT})",
    )
    parser.add_argument("--model", help="a local folder or a hub name (default: the embedded model)")
    parser.set_defaults(command=run, passes_on=True)


def run(args: argparse.Namespace, extra: list[str]) -> int:
    """Becomes the instance: does not return. Raises UsageError for flags that do not go together."""
    require_engine("memserve instance")
    if args.role != "prefill" and args.bootstrap_port is not None:
        raise UsageError(
            f"--bootstrap-port belongs to a prefill instance: leave it out for --role {args.role}"
        )
    if args.model is not None:
        resolve_model(args.model)
    asyncio.run(check_flags(extra, _FLAGS_S))
    bootstrap = args.bootstrap_port or _BOOTSTRAP_PORT
    spec = InstanceSpec(
        role=args.role,
        index=0,
        host=args.host,
        port=args.port,
        bootstrap_port=bootstrap if args.role == "prefill" else None,
        model=args.model,
        extra=tuple(extra),
    )
    command = spec.argv()
    os.execve(command[0], command, {**os.environ, **spec.env()})
