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
import asyncio
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from benchmark import command
from benchmark.bars import Bar, at_most, conclude
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import EngineSpec, System, building
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.machine import machine_description
from sglang_memserve.model import resolve_model

PEERS = StockPeers(Path(__file__).resolve().parents[1] / ".peers")
OURS, MOONCAKE, COLOCATED = "memserve", "mooncake", "colocated"
LENGTHS = (512, 2048, 6144)
JUDGED = (2048, 6144)
SPLIT_TOKENS, SPLIT_BAR = 2000, 1.25
ANSWER_TOKENS = 4
TOKEN_IDS = (1000, 40_000)  # ordinary tokens of any vocabulary
REQUEST_S, STATS_S = 300.0, 10.0


@dataclass(frozen=True)
class Ways:
    """How to ask a system: over `session`; `stats` is the folder in which its prefill instance writes."""

    system: System
    session: aiohttp.ClientSession
    stats: Path

    async def flush(self) -> None:
        for instance in self.system.instances:
            async with self.session.post(f"{instance.url}/flush_cache") as response:
                if response.status != 200:
                    raise ClusterError(
                        f"{instance.url}/flush_cache: {response.status} {await response.text()}"
                    )

    async def ttft(self, tokens: list[int], rid: str) -> float:
        """Seconds to the first event. Raises ClusterError unless all of the answer comes."""
        sampling = {"max_new_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True}
        body = {"input_ids": tokens, "sampling_params": sampling, "stream": True, "rid": rid}
        start, first, answer = time.perf_counter(), 0.0, b""
        timeout = aiohttp.ClientTimeout(total=REQUEST_S)
        async with self.session.post(f"{self.system.url}/generate", json=body, timeout=timeout) as response:
            async for part in response.content.iter_any():
                first = first or time.perf_counter() - start
                answer += part
        if response.status != 200 or b'"error"' in answer or not answer.rstrip().endswith(b"[DONE]"):
            raise ClusterError(f"{self.system.name} answered {response.status}: {answer[-500:]!r}")
        return first

    async def times(self, rid: str) -> tuple[float, float]:
        """P's own seconds for the request `rid` and those of its forward passes. Raises ClusterError."""
        deadline = time.monotonic() + STATS_S
        while time.monotonic() < deadline:
            for entry in map(orjson.loads, self._lines()):
                if entry.get("id") == rid:
                    end = entry["prefill_finished_time"]
                    return end - entry["request_received_ts"], end - entry["forward_entry_time"]
            await asyncio.sleep(0.05)
        raise ClusterError(
            f"{self.system.name}'s prefill instance wrote no times for {rid} within {STATS_S:.0f} s"
        )

    def _lines(self) -> list[bytes]:
        # The last line may be half-written.
        whole = (file.read_bytes().rpartition(b"\n")[0] for file in self.stats.glob("*.log"))
        return [line for text in whole for line in text.splitlines()]


def stats_flags(folder: Path) -> list[str]:
    return ["--enable-metrics", "--export-metrics-to-file", "--export-metrics-to-file-dir", str(folder)]


async def one_round(rounds: Rounds, ways: list[Ways], tokens: int, name: str) -> None:
    """One prompt of `tokens` tokens, the same for each system."""
    prompt = random.Random(name).choices(range(*TOKEN_IDS), k=tokens)
    for way in ways:
        await way.flush()
        seconds = await way.ttft(prompt, name)
        figures = {"ttft_ms": 1e3 * seconds}
        if len(way.system.instances) > 1:
            own, forward = await way.times(name)
            figures |= {"own_ms": 1e3 * own, "handoff_ms": 1e3 * (seconds - own)}
            figures["around_prefill_ms"] = 1e3 * (seconds - forward)
        rounds.note(f"{tokens} tokens", way.system.name, **figures)


async def all_rounds(rounds: Rounds, ways: list[Ways], lengths: list[int], count: int, phase: str) -> None:
    for tokens in lengths:
        print(f"{phase}: {tokens} tokens", file=sys.stderr)
        await one_round(Rounds(), ways, tokens, f"{phase}-{tokens}-warm-up")
        for number in range(count):
            # In turn the other way round, so that no system always has the machine's better moments.
            order = ways if number % 2 == 0 else ways[::-1]
            await one_round(rounds, order, tokens, f"{phase}-{tokens}-{number}")


def ratio(rounds: Rounds, tokens: int, figure: str, ours: str, theirs: str) -> float | None:
    our_median, peer_median = (rounds.median(f"{tokens} tokens", name, figure) for name in (ours, theirs))
    return our_median / peer_median if our_median is not None and peer_median is not None else None


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
    skipped = [
        *(["Mooncake TCP: --without-peer"] if options.without_peer else []),
        *(["Mooncake TCP: --only-split"] if options.only_split else []),
        *(["stock colocated server: --only-handoff"] if options.only_handoff else []),
    ]
    rounds = Rounds()
    engine = EngineSpec(
        model=resolve_model(options.model),
        attention_backend=options.attention_backend,
        threads=options.threads,
    )
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
    conclude(described(options), rounds.results(), bars(rounds), skipped, json=options.json)


def described(options: argparse.Namespace) -> dict[str, Any]:
    """The machine, and what both systems ran with."""
    return {
        **machine_description("sglang", "torch", "sglang-memserve"),
        **PEERS.versions(),
        "attention_backend": options.attention_backend,
        "threads": options.threads,
    }


def main() -> int:
    parser = command.parser(
        __doc__, rounds=5, full="three times the rounds", port=38000, peer="Mooncake and sglang-router"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="prompts, in tokens")
    parser.add_argument("--model", help="a local folder or a hub name (default: the embedded model)")
    parser.add_argument("--attention-backend", default="torch_native", help="of every server")
    parser.add_argument("--threads", type=int, default=1, help="of every server (default: 1)")
    parser.add_argument("--log-dir", type=Path, help="keep the processes' logs here")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--only-handoff", action="store_true", help="leave out the colocated server")
    part.add_argument("--only-split", action="store_true", help="leave out Mooncake")
    options = parser.parse_args()
    options.rounds *= 3 if options.full else 1
    return children.run(benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
