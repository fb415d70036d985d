"""The command line of a registry."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence

from mempool.errors import MemPoolError
from mempool.membership.registry_server import (
    DEATH_SECONDS,
    MAX_MEMBERS,
    SUSPICION_SECONDS,
    MembershipRegistry,
)

_STOP = {signal.SIGINT, signal.SIGTERM}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a signal, 1 for an address that cannot be had, 2 for wrong settings."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Before any thread is there, which would take the signal and do with it what Python does not expect.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        registry = MembershipRegistry(
            arguments.bind,
            suspicion=arguments.suspicion,
            death=arguments.death,
            max_members=arguments.max_members,
        )
        print(registry.endpoint, flush=True)
        signal.sigwait(_STOP)
    except (ValueError, MemPoolError) as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1 if isinstance(error, MemPoolError) else 2
    finally:
        # The next signal ends the process.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
    registry.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mempool.membership.registry",
        description="Tells instances of each other, until SIGINT or SIGTERM. Prints its endpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--bind", metavar="URL", default="tcp://127.0.0.1:0", help="where to listen; port 0 picks a free one"
    )
    parser.add_argument(
        "--suspicion",
        metavar="SECONDS",
        type=float,
        default=SUSPICION_SECONDS,
        help="silence after which an instance gets no new work",
    )
    parser.add_argument(
        "--death",
        metavar="SECONDS",
        type=float,
        default=DEATH_SECONDS,
        help="silence after which an instance is dead",
    )
    parser.add_argument(
        "--max-members", metavar="N", type=int, default=MAX_MEMBERS, help="instances that may be registered"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="to stderr"
    )
    return parser
