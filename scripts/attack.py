#!/usr/bin/env python3
"""Does anything that a stranger sends break a cluster, or slow an honest client down?

A registry, an instance (MemPool, feed, the listener of the split) and a router before engines that answer
everything, each a process. Hostile inputs go to all of their sockets: fuzzed, mutated, nested, cut off,
oversized, and compressed in every coding of HTTP. Beside them an honest client generates, follows the feed
and transfers blocks. Printed: answers by status, threads that ended, tracebacks, growth of each process, and
the honest client's p50 and p99, alone and beside. Exit status 1 if something broke; no time is judged.

Throwers and the cluster share the machine: on few cores much of what the honest client loses is CPU time that
the throwers take, unless they run with --spare.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmark.attack.run import Attack, run
from benchmark.attack.throwing import KINDS
from sglang_memserve.machine import machine_description


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="(default: 100000)")
    parser.add_argument(
        "--sockets",
        nargs="+",
        choices=KINDS,
        default=KINDS,
        help=f"what to throw at (default: {' '.join(KINDS)})",
    )
    parser.add_argument("--throwers", type=int, default=2, help="processes that throw (default: 2)")
    parser.add_argument(
        "--spare",
        action="store_true",
        help="throwers take only CPU time that nothing else wants, nearly as if they were on other machines",
    )
    parser.add_argument("--seed", type=int, default=1, help="equal seeds throw the same (default: 1)")
    parser.add_argument("--alone", type=float, default=20.0, help="seconds of peace before (default: 20)")
    parser.add_argument("--log-dir", type=Path, help="keep the processes' logs here")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.log_dir or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run(
            Attack(
                options.inputs,
                alone_s=options.alone,
                throwers=options.throwers,
                seed=options.seed,
                sockets=tuple(options.sockets),
                spare=options.spare,
            ),
            folder,
        )
    if options.json:
        print(json.dumps({"machine": machine_description("sglang-memserve"), "results": outcome.describe()}))
    else:
        for name, value in outcome.describe().items():
            print(f"{name}: {json.dumps(value, indent=1)}")
    return int(bool(outcome.harm))


if __name__ == "__main__":
    sys.exit(main())
