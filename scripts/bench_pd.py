#!/usr/bin/env python3
"""How long does a prompt's KV take from prefill to decode, and what does the split cost a first token?

Three systems with the same model, attention backend, page size, KV pool and threads, on this machine's cores:
one prefill and one decode instance of ours behind our router; the same of stock SGLang over Mooncake's TCP
behind sglang-router (scripts/setup_peers.sh); and one stock colocated server. One request at a time, over
HTTP to the router (the colocated server), streamed, with a fresh random prompt; all caches are flushed first.

- TTFT: from the client's request to the first event.
- P's own time for the same request: from its arrival at P's HTTP server to the end of P's last prefill
  forward pass, by the time stamps that SGLang itself keeps, in either system alike (request_received_ts and
  prefill_finished_time of --export-metrics-to-file).
- Handoff: TTFT less P's own time. It holds what the split adds: routing, the part of the transfer that
  prefill did not hide, D's taking over, and the first event's way back.
- Around the prefill: TTFT less P's forward passes (from forward_entry_time on). It holds besides what P waits
  for before it computes: tokenising, and D's getting ready for the KV.

Each length's rounds take the systems in turn. Figures are medians of the rounds with lowest and highest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark import command
from benchmark.bars import Bar, at_most, conclude
from benchmark.split import Ways, add_server_flags, all_rounds, engine_of, ratio, stats_flags
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import EngineSpec, building
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.machine import machine_description

PEERS = StockPeers(Path(__file__).resolve().parents[1] / ".peers")
OURS, MOONCAKE, COLOCATED = "memserve", "mooncake", "colocated"
LENGTHS = (512, 2048, 6144)
JUDGED = (2048, 6144)
SPLIT_TOKENS, SPLIT_BAR = 2000, 1.25


def bars(rounds: Rounds) -> list[Bar]:
    handoffs = [
        at_most(
            f"handoff of {tokens} tokens",
            ratio(rounds, tokens, "handoff_ms", OURS, MOONCAKE),
            1.0,
            "x",
            "Mooncake TCP",
        )
        for tokens in JUDGED
    ]
    split = ratio(rounds, SPLIT_TOKENS, "ttft_ms", OURS, COLOCATED)
    return [
        *handoffs,
        at_most(
            f"TTFT of {SPLIT_TOKENS} tokens through 1P1D", split, SPLIT_BAR, "x", "stock colocated server"
        ),
    ]


async def benchmark(options: argparse.Namespace) -> None:
    if not options.without_peer:
        PEERS.require()
    engine = engine_of(options)
    skipped = [
        *(["Mooncake TCP: --without-peer"] if options.without_peer else []),
        *(["Mooncake TCP: --only-split"] if options.only_split else []),
        *(["stock colocated server: --only-handoff"] if options.only_handoff else []),
    ]
    rounds = Rounds()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench_pd.")))
        builder = await stack.enter_async_context(building(engine, options.port, options.log_dir))
        session = builder.session
        ours = builder.pair(OURS, *stats_flags(folder / OURS))
        # One after the other, so that never more than four instances are in memory.
        if not options.only_split:
            systems = [ours]
            if not options.without_peer:
                systems.append(builder.stock_pair(MOONCAKE, PEERS, *stats_flags(folder / MOONCAKE)))
            async with builder.serving(*systems):
                ways = [Ways(system, session, folder / system.name) for system in systems]
                await all_rounds(rounds, ways, options.lengths, options.rounds, "handoff")
        if not options.only_handoff:
            systems = [ours, builder.stock_colocated(COLOCATED, PEERS)]
            async with builder.serving(*systems):
                ways = [Ways(system, session, folder / system.name) for system in systems]
                await all_rounds(rounds, ways, [SPLIT_TOKENS], options.rounds, "split")
    print(rounds.table())
    conclude(described(engine), rounds.results(), bars(rounds), skipped, json=options.json)


def described(engine: EngineSpec) -> dict[str, Any]:
    """The machine, and what both systems ran with."""
    return {
        **machine_description("sglang", "torch", "sglang-memserve"),
        **PEERS.versions(),
        "engine": asdict(engine),
    }


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser(
        __doc__, rounds=5, full="three times the rounds", port=38000, peer="Mooncake and sglang-router"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="prompts, in tokens")
    add_server_flags(parser)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--only-handoff", action="store_true", help="leave out the colocated server")
    part.add_argument("--only-split", action="store_true", help="leave out Mooncake")
    options = parser.parse_args(arguments)
    options.rounds *= 3 if options.full else 1
    return options


def main() -> int:
    return children.run(benchmark(parsed()))


if __name__ == "__main__":
    sys.exit(main())
