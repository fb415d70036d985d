#!/usr/bin/env python3
"""What do the cluster's key and encryption cost?

First with the key (ZeroMQ's CURVE) against without, over the loopback and without servers, both arms in turn:
a routing decision while 64 instances report 100,000 blocks a second; the feed of 100,000 blocks into a
router's tree; a call between two MemPools; and the message by which decode tells prefill where KV goes.

Then pairs of real servers, one prefill and one decode instance behind our router, one request at a time with
fresh random prompts: the handoff (TTFT less what prefill itself takes, see bench_pd.py) with the key against
without, and TTFT with encrypted KV against KV in clear, both with the key. KV goes over TCP.

Figures are medians of the rounds with lowest and highest; ratios are of medians of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from benchmark import command
from benchmark.bars import Bar, at_most, conclude
from benchmark.split import Ways, add_server_flags, all_rounds, engine_of, ratio, stats_flags
from mempool.security.access import ClusterAccess
from mempool.security.cluster_key import ClusterKey
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import EngineSpec, building
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.machine import machine_description

PLAIN, CURVE = "plain", "curve"
OPEN, KEYED, ENCRYPTED = "open", "keyed", "encrypted"
HANDOFF_TOKENS, TTFT_TOKENS = 2048, 2000
RATIO_BAR = 1.05


def measure_ports(rounds: Rounds, count: int) -> None:
    # torch: --help need not wait for it.
    from benchmark.security import MEASUREMENTS

    accesses = {PLAIN: ClusterAccess(), CURVE: ClusterAccess(ClusterKey.generate())}
    for number in range(count):
        print(f"round {number + 1} of {count}", file=sys.stderr)
        for name, measure in MEASUREMENTS.items():
            # Whoever is first in one round is second in the next.
            for arm in sorted(accesses, reverse=bool(number % 2)):
                rounds.note(name, arm, took=measure(accesses[arm]))


async def measure_servers(rounds: Rounds, options: argparse.Namespace) -> None:
    # Nothing is encrypted in shared memory.
    over_tcp = ("--memserve-fabrics", "stream")
    engine = engine_of(options)
    engine = replace(engine, extra=(*engine.extra, *over_tcp))
    keyed = replace(engine, cluster_key=ClusterKey.generate())
    encrypted = replace(keyed, extra=(*keyed.extra, "--memserve-encrypt", "on"))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench_security.")))
        builder = await stack.enter_async_context(building(engine, options.port, options.log_dir))

        async def compare(tokens: int, engines: dict[str, EngineSpec]) -> None:
            systems = [
                replace(builder, engine=each).pair(name, *stats_flags(folder / f"{name} {tokens}"))
                for name, each in engines.items()
            ]
            async with builder.serving(*systems):
                ways = [Ways(each, builder.session, folder / f"{each.name} {tokens}") for each in systems]
                await all_rounds(rounds, ways, [tokens], options.rounds, "servers")

        # Two pairs at a time: never more than four instances are in memory.
        await compare(HANDOFF_TOKENS, {OPEN: engine, KEYED: keyed})
        await compare(TTFT_TOKENS, {KEYED: keyed, ENCRYPTED: encrypted})


def port_ratio(rounds: Rounds, name: str) -> float | None:
    """Of the medians: how much more CURVE takes."""
    return rounds.ratio(name, "took", CURVE, PLAIN)


def bars(rounds: Rounds, *, servers: bool) -> list[Bar]:
    from benchmark.security import DECISION, FEED

    # A call or a message alone pays for its encryption, and waits for nothing else: they have no bar.
    found = [
        at_most(f"{name}, with a key", port_ratio(rounds, name), RATIO_BAR, "x", "the same without")
        for name in (DECISION, FEED)
    ]
    if servers:
        handoff = ratio(rounds, HANDOFF_TOKENS, "handoff_ms", KEYED, OPEN)
        ttft = ratio(rounds, TTFT_TOKENS, "ttft_ms", ENCRYPTED, KEYED)
        found += [
            at_most(
                f"handoff of {HANDOFF_TOKENS} tokens, with a key", handoff, RATIO_BAR, "x", "without one"
            ),
            at_most(f"TTFT of {TTFT_TOKENS} tokens, encrypted", ttft, RATIO_BAR, "x", "in clear"),
        ]
    return found


async def benchmark(options: argparse.Namespace) -> None:
    rounds = Rounds()
    await asyncio.to_thread(measure_ports, rounds, options.rounds)
    skipped = ["pairs of servers: --without-servers"] if options.without_servers else []
    if not options.without_servers:
        await measure_servers(rounds, options)
    print(rounds.table())
    machine = machine_description("pyzmq", "cryptography", "sglang", "torch")
    conclude(
        machine,
        rounds.results(),
        bars(rounds, servers=not options.without_servers),
        skipped,
        json=options.json,
    )


def main() -> int:
    parser = command.parser(__doc__, rounds=9, port=38000)
    parser.add_argument("--without-servers", action="store_true", help="leave out the pairs of real servers")
    add_server_flags(parser)
    return children.run(benchmark(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
