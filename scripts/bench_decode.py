#!/usr/bin/env python3
"""What does a decode step cost, and who takes the time?

One prefill and one decode instance of ours behind our router (--memserve-caching 3), and the same of stock
SGLang over Mooncake's TCP behind sglang-router (scripts/setup_peers.sh), with the same model, attention, pool
and threads. A number of answers is asked for at once and decoded together, in each system in turn. Only the
time in which all of them are decoded counts: a step then has the same work in both. Under a workload it has
not, since who begins an answer earlier decodes more of them together.

- step: milliseconds between two tokens of each answer.
- By threads of the decode instance and the router: milliseconds of a step that they ran, and that they could
  have run and waited for a core, as Linux counts them.

Figures are medians of the rounds with lowest and highest; ratios are of medians of one run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from benchmark import command
from benchmark.bars import Bar, at_most, conclude
from benchmark.decode_step import WatchedThreads, decode_together
from benchmark.split import add_server_flags, engine_of
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import Builder, building
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.bench.serving.client import Client
from sglang_memserve.machine import machine_description

PEERS = StockPeers(Path(__file__).resolve().parents[1] / ".peers")
OURS, STOCK = "memserve", "stock"
STREAMS = (1, 8)
BAR = 1.01
_REQUEST_S = 300.0


def workload(streams: int) -> str:
    return f"{streams} streams"


def bars(rounds: Rounds, counts: Sequence[int]) -> list[Bar]:
    ratios = {name: rounds.ratio(name, "step_ms", OURS, STOCK) for name in map(workload, counts)}
    return [at_most(f"step of {name}", ratio, BAR, "x", "stock SGLang") for name, ratio in ratios.items()]


async def measure(rounds: Rounds, builder: Builder, options: argparse.Namespace) -> None:
    systems = [builder.pair(OURS)]
    if not options.without_peer:
        systems.append(builder.stock_pair(STOCK, PEERS))
    names = [system.name for system in systems]
    async with builder.serving(*systems):
        clients = {system.name: Client(builder.session, system.url, _REQUEST_S) for system in systems}
        threads = {system.name: WatchedThreads(system).seconds for system in systems}

        async def measured(into: Rounds, arm: str, streams: int, seed: str) -> None:
            found = await decode_together(clients[arm], threads[arm], streams, options.tokens, seed)
            into.note(workload(streams), arm, **found)

        for streams in options.streams:
            for number in range(-1, options.rounds):
                print(f"{workload(streams)}: round {number + 1} of {options.rounds}", file=sys.stderr)
                # Whoever is first in one round is second in the next. The first of all warms up.
                for arm in names[:: -1 if number % 2 else 1]:
                    await measured(rounds if number >= 0 else Rounds(), arm, streams, f"{streams} {number}")


async def benchmark(options: argparse.Namespace) -> None:
    if not options.without_peer:
        PEERS.require()
    engine = engine_of(options)
    if options.without_overlap:
        engine = replace(engine, extra=(*engine.extra, "--disable-overlap-schedule"))
    rounds, skipped = Rounds(), [f"{STOCK}: --without-peer"] if options.without_peer else []
    async with AsyncExitStack() as stack:
        builder = await stack.enter_async_context(building(engine, options.port, options.log_dir))
        await measure(rounds, builder, options)
    print(rounds.table())
    machine = machine_description("sglang", "torch", "sglang-memserve") | PEERS.versions()
    conclude(machine, rounds.results(), bars(rounds, options.streams), skipped, json=options.json)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__, rounds=5, port=38000, peer="stock SGLang's pair")
    parser.add_argument(
        "--streams", type=int, nargs="+", default=list(STREAMS), help="answers at once (default: 1 8)"
    )
    parser.add_argument("--tokens", type=int, default=64, help="of each answer (default: 64)")
    parser.add_argument("--without-overlap", action="store_true", help="with SGLang's overlap schedule off")
    add_server_flags(parser)
    options = parser.parse_args(arguments)
    for name, values in (("--streams", options.streams), ("--tokens", [options.tokens])):
        if min(values) < 1:
            parser.error(f"{name} {min(values)}: give at least 1")
    return options


def main() -> int:
    return children.run(benchmark(parsed()))


if __name__ == "__main__":
    sys.exit(main())
