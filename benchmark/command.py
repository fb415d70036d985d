"""What the command lines of the benchmarks of scripts/ have in common."""

import argparse
import signal
import sys
from collections.abc import Callable


def parser(
    about: str | None,
    *,
    rounds: int,
    full: str | None = None,
    port: int | None = None,
    peer: str | None = None,
) -> argparse.ArgumentParser:
    """With --json and --rounds; callers add their own flags.

    `full`: what --full means. `port`: the default of --port. `peer`: what --without-peer leaves out. Each
    flag is there where its argument is given.
    """
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--json", action="store_true", help="end with one JSON object")
    if full is not None:
        made.add_argument("--full", action="store_true", help=full)
    made.add_argument("--rounds", type=int, default=rounds, help=f"(default: {rounds})")
    if port is not None:
        made.add_argument(
            "--port", type=int, default=port, help=f"takes free ports from here up (default: {port})"
        )
    if peer is not None:
        made.add_argument("--without-peer", action="store_true", help=f"measure without {peer}")
    return made


def exit_status(benchmark: Callable[[], None]) -> int:
    """Of a benchmark that starts processes: they end with it, whatever ends it. Its errors are printed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        benchmark()
    except KeyboardInterrupt:
        return 130
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
