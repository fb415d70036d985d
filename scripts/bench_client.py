#!/usr/bin/env python3
"""How far are the figures of `memserve bench` from the truth?

Its client asks a mock server whose delays are known: the first token after 50 ms, each further one 10 ms
later, 16 in all; prompts of 500 tokens, 50 requests a second at random moments (Poisson).
- TTFT error, TPOT error: what the client measured less what the server was set to do, p50 and p99.
- The client's share of the TTFT error: what it measured less when the server says it really sent the first
  token, for a timer and an event loop are late by themselves; p50 and p99.
- Lateness: how long after its planned time a request is written, p99. Once with that server, and once with
  one whose first token takes 2 s: an open loop sends neither later nor less.
Every figure is the median of the rounds with lowest and highest. Client and server are two processes on this
machine's cores.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from benchmark import command
from benchmark.bars import Bar, at_least, at_most, conclude
from benchmark.mock_engine import DELAY
from sglang_memserve.bench import children
from sglang_memserve.bench.figures import Rounds, percentile
from sglang_memserve.bench.serving.answer import StreamedAnswer
from sglang_memserve.bench.serving.apis import APIS, Conversation, RequestSettings
from sglang_memserve.bench.serving.client import Client, open_session
from sglang_memserve.bench.serving.replay import replay
from sglang_memserve.bench.workloads.form import Workload, WorkloadSession, WorkloadTurn
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.ports import PortPicker
from sglang_memserve.cluster.supervisor import Member
from sglang_memserve.machine import machine_description

FAST, SLOW = "fast", "slow"
FIRST_MS = {FAST: 50.0, SLOW: 2000.0}
GAP_MS = 10.0
PROMPT, ANSWER, RATE = 500, 16, 50.0
ERROR_BAR_MS, LATE_BAR_MS, RATE_BAR = 2.0, 5.0, 0.99
MOCK = "benchmark.mock_engine"


def workload(seconds: float, seed: int) -> Workload:
    rng, now, sessions = random.Random(seed), 0.0, list[WorkloadSession]()
    while (now := now + rng.expovariate(RATE)) < seconds:
        tokens = tuple(rng.choices(range(1000, 40_000), k=PROMPT))
        turn = WorkloadTurn(tokens, ANSWER, " ".join(map(str, tokens)))
        sessions.append(WorkloadSession(f"s{len(sessions)}", now, (turn,)))
    return Workload("known delays", tuple(sessions))


def telling(api: str, sent: list[float]) -> Conversation:
    """A conversation that adds to `sent` when the server says it sent the first token of each answer."""

    form: Any = APIS[api]

    class TellingConversation(form):
        def on_event(self, event: dict[str, Any], at: float, answer: StreamedAnswer) -> None:
            if DELAY in event and not answer.token_times:
                sent.append(at - event[DELAY])
            super().on_event(event, at, answer)

    conversation: Conversation = TellingConversation(RequestSettings())
    return conversation


async def measure(rounds: Rounds, name: str, api: str, client: Client, seconds: float, seed: int) -> None:
    """One round of one form. Raises ClusterError if a request failed: there should be none."""
    shares: list[float] = []
    load = workload(seconds, seed)
    run = await replay(load, client, lambda _: telling(api, shares), lambda _: None, seconds + 60)
    if failed := [record.error for record in run.records if record.error]:
        raise ClusterError(f"{len(failed)} requests to the mock server failed, as {failed[0]}")
    answers = [record.answer for record in run.records if record.answer]
    late = [1e3 * record.late for record in run.records]
    rounds.note(
        api,
        name,
        ttft_error_p50_ms=percentile((1e3 * answer.ttft for answer in answers), 0.5) - FIRST_MS[name],
        ttft_error_p99_ms=percentile((1e3 * answer.ttft for answer in answers), 0.99) - FIRST_MS[name],
        tpot_error_p50_ms=percentile((1e3 * (answer.tpot or 0) for answer in answers), 0.5) - GAP_MS,
        tpot_error_p99_ms=percentile((1e3 * (answer.tpot or 0) for answer in answers), 0.99) - GAP_MS,
        client_ttft_error_p50_ms=1e3 * percentile(shares, 0.5),
        client_ttft_error_p99_ms=1e3 * percentile(shares, 0.99),
        late_p50_ms=percentile(late, 0.5),
        late_p99_ms=percentile(late, 0.99),
        sent_per_s=len(late) / max(record.sent for record in run.records),
    )


def bars(rounds: Rounds) -> list[Bar]:
    names = ("ttft_error_p50", "client_ttft_error_p99", "tpot_error_p50", "tpot_error_p99")

    def off(api: str, name: str) -> float | None:
        value = rounds.median(api, FAST, f"{name}_ms")
        return None if value is None else abs(value)

    found = [
        at_most(
            f"{api}: {name} at {RATE:g} requests/s",
            off(api, name),
            ERROR_BAR_MS,
            "ms",
            "the mock server's delay",
        )
        for api in APIS
        for name in names
    ]
    late = rounds.median("generate", SLOW, "late_p99_ms")
    sent = [rounds.median("generate", name, "sent_per_s") for name in (SLOW, FAST)]
    ratio = sent[0] / sent[1] if sent[0] and sent[1] else None
    before = "before a server that takes 2 s"
    return [
        *found,
        at_most(f"lateness p99 {before}", late, LATE_BAR_MS, "ms", "the planned time"),
        at_least(f"requests sent a second {before}", ratio, RATE_BAR, "x", "one that takes 50 ms"),
    ]


def mock(name: str, port: int, logs: Path, session: aiohttp.ClientSession) -> Member:
    argv = [sys.executable, "-P", "-m", MOCK, "--port", str(port)]
    argv += ["--first-ms", str(FIRST_MS[name]), "--gap-ms", str(GAP_MS)]
    return children.answering(name, argv, f"http://{children.HOST}:{port}", logs, session)


async def benchmark(options: argparse.Namespace) -> None:
    rounds = Rounds()
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench_client.")))
        probing = await stack.enter_async_context(probe.client())
        session = await stack.enter_async_context(open_session())
        ports = stack.enter_context(PortPicker(children.HOST, options.port))
        chosen = {name: ports.pick() for name in FIRST_MS}
        members = [mock(name, port, logs, probing) for name, port in chosen.items()]
        await stack.enter_async_context(children.running(members))
        clients = {
            name: Client(session, f"http://{children.HOST}:{port}", 30.0) for name, port in chosen.items()
        }
        arms = [(FAST, api) for api in APIS] + [(SLOW, "generate")]
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for name, api in arms:
                await measure(rounds, name, api, clients[name], options.seconds, number)
    print(rounds.table())
    machine = machine_description("aiohttp", "sglang-memserve")
    conclude(machine, rounds.results(), bars(rounds), json=options.json)


def main() -> int:
    parser = command.parser(__doc__, rounds=5, full="three times the rounds", port=38500)
    parser.add_argument("--seconds", type=float, default=6.0, help="of arrivals, each time (default: 6)")
    options = parser.parse_args()
    options.rounds *= 3 if options.full else 1
    return children.run(benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
