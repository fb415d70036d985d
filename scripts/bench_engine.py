#!/usr/bin/env python3
"""How fast is SGLang on this CPU with our attention, against its torch_native?

Two servers with the embedded model and the same flags but for `--attention-backend`, each with the same
number of threads, are asked in turn: no two requests run at the same time. Every figure is the median of the
rounds with its lowest and highest; prompts are random token ids, new in every round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from benchmark import command
from benchmark.bars import Bar, at_least, at_most, conclude
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import EngineSpec, System, building
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.machine import machine_description
from sglang_memserve.model import resolve_model

OURS, PEER = "memserve_cpu", "torch_native"
CONTEXT, PROMPT, CACHED, NEW = 512, 2048, 2000, 16
VOCABULARY = range(1000, 40_000)
REQUEST_S = 300.0
WORKLOAD = "engine"


def prompt(tokens: int) -> list[int]:
    return [random.choice(VOCABULARY) for _ in range(tokens)]


async def generate(
    session: aiohttp.ClientSession, url: str, prompts: list[list[int]], new: int
) -> AsyncIterator[list[int]]:
    """How many tokens each prompt has so far, whenever the server says so. Raises ClusterError."""
    sampling = {"temperature": 0, "max_new_tokens": new, "ignore_eos": True}
    body = {"input_ids": prompts, "sampling_params": sampling, "stream": True}
    done = [0] * len(prompts)
    timeout = aiohttp.ClientTimeout(total=REQUEST_S)
    async with session.post(f"{url}/generate", json=body, timeout=timeout) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                event: dict[str, Any] = orjson.loads(line.removeprefix(b"data: "))
                if "meta_info" not in event:
                    raise ClusterError(f"{url} answered {line[:300]!r}")
                done[event.get("index", 0)] = event["meta_info"]["completion_tokens"]
                yield done
    if min(done) < new:
        raise ClusterError(f"{url} answered {response.status} and gave {done} of {new} tokens")


async def decode_rate(session: aiohttp.ClientSession, url: str, batch: int, steps: int) -> float:
    """Tokens a second while all of the batch decode at about CONTEXT, from the median of their steps."""
    reached: dict[int, float] = {}
    prompts = [prompt(CONTEXT - steps // 2) for _ in range(batch)]
    async for done in generate(session, url, prompts, steps):
        if min(done) > 0:
            reached.setdefault(min(done), time.perf_counter())
    times = [reached[count] for count in sorted(reached)]
    return batch / statistics.median(later - earlier for earlier, later in pairwise(times))


async def seconds(session: aiohttp.ClientSession, url: str, tokens: list[int]) -> float:
    """From the request to its one token."""
    start = time.perf_counter()
    async for _ in generate(session, url, [tokens], 1):
        pass
    return time.perf_counter() - start


async def one_round(rounds: Rounds, session: aiohttp.ClientSession, system: System, steps: int) -> None:
    cached = prompt(CACHED)
    await seconds(session, system.url, cached)
    rounds.note(
        WORKLOAD,
        system.name,
        decode_b8_tokens_per_s=await decode_rate(session, system.url, 8, steps),
        decode_b1_tokens_per_s=await decode_rate(session, system.url, 1, steps),
        prefill_2048_s=await seconds(session, system.url, prompt(PROMPT)),
        prefill_16_on_2000_s=await seconds(session, system.url, cached + prompt(NEW)),
    )


def ratio(rounds: Rounds, figure: str) -> float | None:
    """Ours over the peer's."""
    return rounds.ratio(WORKLOAD, figure, OURS, PEER)


def bars(rounds: Rounds) -> list[Bar]:
    prefill = ratio(rounds, "prefill_2048_s")
    return [
        at_least("decode, batch 8, context 512", ratio(rounds, "decode_b8_tokens_per_s"), 2.5, "x", PEER),
        at_least("decode, batch 1, context 512", ratio(rounds, "decode_b1_tokens_per_s"), 1.0, "x", PEER),
        at_least("prefill, 2,048 tokens", None if prefill is None else 1 / prefill, 1.3, "x", PEER),
        at_most("16 new tokens on 2,000 cached", ratio(rounds, "prefill_16_on_2000_s"), 0.15, "x", PEER),
    ]


async def benchmark(options: argparse.Namespace) -> None:
    rounds = Rounds()
    async with AsyncExitStack() as stack:
        engine = EngineSpec(resolve_model(None), OURS, threads=options.threads, extra=tuple(options.flags))
        builder = await stack.enter_async_context(building(engine, options.port, options.log_dir))
        session = builder.session
        systems = [
            replace(builder, engine=replace(engine, attention_backend=attention)).colocated(attention)
            for attention in (OURS, PEER)
        ]
        await stack.enter_async_context(builder.serving(*systems))
        for system in systems:
            await seconds(session, system.url, prompt(CONTEXT))
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for system in systems if number % 2 else systems[::-1]:
                await one_round(rounds, session, system, options.steps)
    print(rounds.table())
    machine = machine_description("sglang", "sglang-memserve", "torch") | {"threads": options.threads}
    conclude(machine, rounds.results(), bars(rounds), json=options.json)


def main() -> int:
    parser = command.parser(__doc__, rounds=5, full="three times the rounds", port=39000)
    parser.add_argument("--steps", type=int, default=24, help="tokens a request decodes (default: 24)")
    parser.add_argument("--threads", type=int, default=1, help="of each server (default: 1)")
    parser.add_argument("--log-dir", type=Path, help="keep the servers' logs here")
    parser.add_argument("flags", nargs="*", help="after --: more of SGLang's flags for both servers")
    options = parser.parse_args()
    options.rounds *= 3 if options.full else 1
    return children.run(benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
