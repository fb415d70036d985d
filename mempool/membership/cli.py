"""The command line of a registry."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from mempool.errors import MemPoolError
from mempool.membership.connections import check_bind
from mempool.membership.registry_server import (
    DEATH_SECONDS,
    MAX_MEMBERS,
    SUSPICION_SECONDS,
    MembershipRegistry,
)
from mempool.security.access import INSECURE_VARIABLE, ClusterAccess, insecure_of
from mempool.security.cluster_key import FILE_VARIABLE, KEY_VARIABLE

DESCRIPTION = "Lets instances find each other, until SIGINT or SIGTERM. Prints its endpoint."
_STOP = {signal.SIGINT, signal.SIGTERM}


def main(argv: Sequence[str] | None = None) -> int:
    """As `run`; exits with status 2 for flags that argparse refuses."""
    parser = argparse.ArgumentParser(
        prog="python -m mempool.membership.registry",
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    add_flags(parser)
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Serves until a signal. Exit code: 0 after one, 1 for a taken address, 2 for wrong settings."""
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Handlers, and no blocked signals with sigwait: a library's thread that does not block them would take a
    # signal that comes before the wait, and end the process.
    stopped = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stopped.set()) for number in _STOP}
    try:
        check_bind(arguments.bind)
        insecure = arguments.insecure or _insecure_here()
        access = ClusterAccess.from_environment(key_file=arguments.cluster_key_file, insecure=insecure)
        if access.caveat:
            logging.warning("%s", access.caveat)
        registry = MembershipRegistry(
            arguments.bind,
            suspicion_s=arguments.suspicion,
            death_s=arguments.death,
            max_members=arguments.max_members,
            access=access,
        )
        print(registry.endpoint, flush=True)
        stopped.wait()
    except (ValueError, MemPoolError) as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1 if isinstance(error, MemPoolError) else 2
    finally:
        # The next signal ends the process.
        for number, handler in previous.items():
            signal.signal(number, handler)
    registry.close()
    return 0


def _insecure_here() -> bool:
    try:
        return insecure_of(os.environ.get(INSECURE_VARIABLE) or "0")
    except ValueError as error:
        raise ValueError(f"{INSECURE_VARIABLE} {error}") from None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The registry's flags."""
    parser.add_argument(
        "--bind",
        metavar="URL",
        default="tcp://127.0.0.1:0",
        help="address to listen on; port 0 picks a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--suspicion",
        metavar="SECONDS",
        type=float,
        default=SUSPICION_SECONDS,
        help="silence after which an instance gets no new work (default: %(default)s)",
    )
    parser.add_argument(
        "--death",
        metavar="SECONDS",
        type=float,
        default=DEATH_SECONDS,
        help="silence after which an instance counts as dead (default: %(default)s)",
    )
    parser.add_argument(
        "--max-members",
        metavar="N",
        type=int,
        default=MAX_MEMBERS,
        help="maximum number of registered instances (default: %(default)s)",
    )
    parser.add_argument(
        "--cluster-key-file",
        metavar="FILE",
        default="",
        help=f"the cluster's key, in a file of mode 0600 ({FILE_VARIABLE}, or the key in {KEY_VARIABLE}); "
        "without it, addresses of the loopback alone are listened on",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help=f"listen on any address without a key, to anybody (also {INSECURE_VARIABLE}=1)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="how much to log, to stderr (default: %(default)s)",
    )
