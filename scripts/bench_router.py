#!/usr/bin/env python3
"""What does a router add to a request, and how many requests a second does it pass on?

Our router and sglang-router (scripts/setup_peers.sh) stand before the same mock workers, which answer at
once: JSON of 0.9 KB, or a stream of 16 events, 5 ms apart. Two set-ups, colocated and prefill/decode pairs,
streaming and not. Each is measured directly, through ours and through sglang-router in turn, round by round:
- latency under open-loop load: requests at random moments (Poisson), 200 a second, the same moments and
  prompts for each arm, from the write of the request to the first byte of the body (stream) or to the end
  (JSON). What a router adds is its round's p50 (p99) less the same round's p50 (p99) without a router.
  Without a router, a pair's request goes to the decode worker alone;
- the most requests a second, closed-loop, 32 (JSON) or 256 (stream) at a time.
The client acknowledges every segment at once. With Linux's delayed acknowledgements, which most clients have,
the first event of a stream through sglang-router comes 40 ms later: it leaves Nagle's algorithm on.
Every figure is the median of the rounds with lowest and highest. An answer that fails ends the benchmark.
Client, workers and routers share this machine's cores: compare rates within one run only. Ours has its
default policy, and tokenises every prompt for it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmark import command
from benchmark.bars import Bar, at_most, conclude
from benchmark.load import LoadClient, closed_loop, milliseconds, open_loop
from sglang_memserve.bench import children
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.peers import ROUTER_NAME, StockPeers, router_command
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.ports import PortPicker
from sglang_memserve.cluster.spec import InstanceSpec, router_argv
from sglang_memserve.cluster.supervisor import Member
from sglang_memserve.machine import machine_description
from sglang_memserve.model import resolve_model

PEERS = StockPeers(Path(__file__).resolve().parents[1] / ".peers")
OURS, DIRECT = "memserve", "direct"
SETUPS = ("colocated", "pd")
KINDS = ("json", "stream")
BARS = (("p50", 1.5), ("p99", 6.0))
AT_ONCE = {"json": 32, "stream": 256}
MAX_PROMPT_TOKENS = 256
CHARS_PER_TOKEN = 4
EVENTS, GAP_MS = 16, 5


@dataclass(frozen=True)
class RouterArm:
    """One way to the workers in one set-up: directly, through our router, through the peer's."""

    name: str
    setup: str
    client: LoadClient


def request_bodies(stream: bool, count: int = 512, seed: int = 1) -> Iterator[bytes]:
    """Endless /generate bodies with prompts of 1 to 256 tokens, taken as 4 characters each."""
    rng = random.Random(seed)
    lengths = [rng.randrange(1, MAX_PROMPT_TOKENS + 1) * CHARS_PER_TOKEN for _ in range(count)]
    return itertools.cycle(
        orjson.dumps(
            {
                "text": f"{number:08x} " + "word " * (length // 5),
                "sampling_params": {"max_new_tokens": EVENTS, "temperature": 0},
                "stream": stream,
            }
        )
        for number, length in enumerate(lengths)
    )


@asynccontextmanager
async def arms(options: argparse.Namespace, logs: Path) -> AsyncIterator[list[RouterArm]]:
    """All arms, with the processes behind them."""
    async with probe.client() as session:
        with PortPicker(children.HOST, options.port) as ports:
            prefill = InstanceSpec("prefill", 0, ports.pick(), bootstrap_port=ports.pick())
            decode = InstanceSpec("decode", 0, ports.pick())
            colocated = InstanceSpec("colocated", 0, decode.port)
            systems = {"colocated": [colocated], "pd": [prefill, decode]}
            urls = {(DIRECT, setup): decode.url for setup in SETUPS}
            routers: list[Member] = []
            for setup, instances in systems.items():
                for name in (OURS, *([] if options.without_peer else [ROUTER_NAME])):
                    port = ports.pick()
                    urls[name, setup] = f"http://{children.HOST}:{port}"
                    argv, env = router_argv(children.HOST, port, instances), {}
                    if name == OURS:
                        argv += ["--log-level", "warning", "--tokenizer", resolve_model(None)]
                    else:
                        argv, env = router_command(children.HOST, port, ports.pick(), instances), PEERS.env()
                    routers.append(
                        children.answering(f"{name}-{setup}", argv, urls[name, setup], logs, session, env)
                    )
            workers = [worker(spec, logs, session) for spec in (prefill, decode)]
            async with children.running(workers, 30), children.running(routers, 120):
                yield [RouterArm(name, setup, LoadClient(url)) for (name, setup), url in urls.items()]


def worker(spec: InstanceSpec, logs: Path, session: Any) -> Member:
    """A mock of an instance. What a prefill worker streams is its one token."""
    events = 1 if spec.role == "prefill" else EVENTS
    argv = [sys.executable, "-P", "-m", "benchmark.mock_worker", "--port", str(spec.port)]
    argv += ["--events", str(events), "--gap-ms", str(GAP_MS)]
    return children.answering(f"mock-{spec.name}", argv, spec.url, logs, session)


async def measure(arm: RouterArm, kind: str, options: argparse.Namespace, number: int) -> dict[str, float]:
    """One round of one arm."""
    seconds = options.seconds
    bodies = request_bodies(kind == "stream")
    async with arm.client as client:
        await closed_loop(client, bodies, AT_ONCE[kind], 0.3)
        timings = await open_loop(client, bodies, options.rate, seconds, seed=number)
        rate = await closed_loop(client, bodies, AT_ONCE[kind], seconds / 2)
    return {**milliseconds(timings), "requests_per_s": rate}


def added(kind: str, figures: dict[str, float], direct: dict[str, float]) -> dict[str, float]:
    """What this round of an arm took more than the same round without a router."""
    what = "first" if kind == "stream" else "last"
    return {f"added_{p}_ms": figures[f"{what}_{p}_ms"] - direct[f"{what}_{p}_ms"] for p, _ in BARS}


def bars(rounds: Rounds) -> list[Bar]:
    """What ours adds. The peer's own figures are in the results."""
    return [
        at_most(
            f"router adds, {setup} {kind}, {p}",
            rounds.median(f"{setup} {kind}", OURS, f"added_{p}_ms"),
            bar,
            "ms",
            DIRECT,
        )
        for setup, kind, (p, bar) in itertools.product(SETUPS, KINDS, BARS)
    ]


async def one_round(rounds: Rounds, ways: list[RouterArm], options: argparse.Namespace, number: int) -> None:
    for setup, kind in itertools.product(SETUPS, KINDS):
        timed = {arm.name: await measure(arm, kind, options, number) for arm in ways if arm.setup == setup}
        for name, figures in timed.items():
            rounds.note(f"{setup} {kind}", name, **figures)
            if name != DIRECT:
                rounds.note(f"{setup} {kind}", name, **added(kind, figures, timed[DIRECT]))


async def benchmark(options: argparse.Namespace) -> None:
    skipped = [f"{ROUTER_NAME}: --without-peer"] if options.without_peer else []
    if not options.without_peer:
        PEERS.require()
    rounds = Rounds()
    with tempfile.TemporaryDirectory(prefix="bench_router.") as folder:
        async with arms(options, options.log_dir or Path(folder)) as ways:
            for number in range(options.rounds):
                print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
                await one_round(rounds, ways, options, number)
    print(rounds.table())
    machine = machine_description("aiohttp", "uvloop") | PEERS.versions()
    conclude(machine, rounds.results(), bars(rounds), skipped, json=options.json)


def main() -> int:
    parser = command.parser(__doc__, rounds=5, full="four times as long", port=37000, peer=ROUTER_NAME)
    parser.add_argument(
        "--rate", type=float, default=200.0, help="requests a second, open-loop (default: 200)"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of open-loop load in a round (default: 3)"
    )
    parser.add_argument("--log-dir", type=Path, help="keep the processes' logs here")
    options = parser.parse_args()
    options.seconds *= 4 if options.full else 1
    return children.run(benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
