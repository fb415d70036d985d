#!/usr/bin/env python3
"""What the cluster's key costs: the control channel, a message to prefill and a feed, with CURVE and without.

Both arms take turns within each round, in one process over the loopback. A round trip is a call between two
MemPools; a handoff message is decode's destination, from the send to the read; the feed is 100,000 blocks
that come into an instance's HBM, until the router's tree has them.

    python scripts/bench_security.py --json
"""

from __future__ import annotations

import sys

from benchmark import command
from benchmark.bars import at_most, conclude
from mempool.security.access import ClusterAccess
from mempool.security.cluster_key import ClusterKey
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.machine import machine_description

PLAIN, CURVE = "plain", "curve"
RATIO_BAR = 1.05


def ratio(rounds: Rounds, name: str) -> float | None:
    """Of the medians: how much more CURVE takes."""
    curve, plain = (rounds.median(name, arm, "took") for arm in (CURVE, PLAIN))
    return curve / plain if curve and plain else None


def main() -> int:
    options = command.parser(__doc__, rounds=7).parse_args()
    # torch: --help need not wait for it.
    from benchmark.security import FEED, MEASUREMENTS

    accesses = {PLAIN: ClusterAccess(), CURVE: ClusterAccess(ClusterKey.generate())}
    rounds = Rounds()
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        for name, measure in MEASUREMENTS.items():
            # Whoever is first in one round is second in the next.
            for arm in sorted(accesses, reverse=bool(number % 2)):
                rounds.note(name, arm, took=measure(accesses[arm]))
    print(rounds.table())
    ratios = {name: ratio(rounds, name) for name in MEASUREMENTS}
    # A message alone pays for its encryption, and waits for nothing else: the feed is what has a bar.
    bars = [at_most(f"{FEED}, with a key", ratios[FEED], RATIO_BAR, "x", "the same without")]
    results = rounds.results() | {"ratios": ratios}
    conclude(machine_description("pyzmq", "cryptography"), results, bars, json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
