#!/usr/bin/env python3
"""How much of a core does a prefill/decode pair burn while it has nothing to compute?

One prefill and one decode instance of ours, and the same of stock SGLang over Mooncake's TCP
(scripts/setup_peers.sh), all with --sleep-on-idle. CPU time of all processes of an instance, as a share of
one core:
- idle: nothing is asked of anybody;
- waiting: the instance has a request whose other half never comes. A decode instance waits for its prefill,
  a prefill instance for its decode.

Figures are medians of the rounds with lowest and highest; the instances of both systems take turns waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from benchmark import command
from benchmark.bars import Bar, at_most, conclude
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import EngineSpec, System, building
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.spec import InstanceSpec
from sglang_memserve.machine import machine_description
from sglang_memserve.model import resolve_model

PEERS = StockPeers(Path(__file__).resolve().parents[1] / ".peers")
OURS, MOONCAKE = "memserve", "mooncake"
BARS = {"idle": 5.0, "waiting": 25.0}
SETTLE_S = 3.0
_PATIENT = aiohttp.ClientTimeout(total=300)


@dataclass(frozen=True)
class InstanceProcesses:
    """One server of `system`, and all of its processes."""

    system: System
    spec: InstanceSpec
    family: tuple[psutil.Process, ...]

    @classmethod
    def find(cls, system: System, spec: InstanceSpec) -> InstanceProcesses:
        """Raises ClusterError if no process listens as `spec` says."""
        port = ["--port", str(spec.port)]
        for process in psutil.Process().children(recursive=True):
            command = process.cmdline()
            if any(command[i : i + 2] == port for i in range(len(command))):
                return cls(system, spec, (process, *process.children(recursive=True)))
        raise ClusterError(f"no process of {system.name} has the port {spec.port}")

    def cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.family]
        return float(sum(each.user + each.system for each in times))


async def shares(instances: list[InstanceProcesses], seconds: float) -> list[float]:
    """Percent of a core that each instance burns in the next `seconds`."""
    before = [instance.cpu_seconds() for instance in instances]
    await asyncio.sleep(seconds)
    return [
        100 * (instance.cpu_seconds() - start) / seconds
        for instance, start in zip(instances, before, strict=True)
    ]


@asynccontextmanager
async def half_a_request(session: aiohttp.ClientSession, instance: InstanceProcesses) -> AsyncIterator[None]:
    """In the block the instance waits for the other half of a request. Raises ClusterError if it does not."""
    prefill = next(spec for spec in instance.system.instances if spec.role == "prefill")
    body = {
        "input_ids": [1000 + secrets.randbelow(30_000) for _ in range(64)],
        "sampling_params": {"max_new_tokens": 4},
        "bootstrap_host": prefill.host,
        "bootstrap_port": prefill.bootstrap_port,
        "bootstrap_room": 1 + secrets.randbits(62),
    }
    waiting = asyncio.create_task(session.post(f"{instance.spec.url}/generate", json=body, timeout=_PATIENT))
    try:
        await asyncio.sleep(SETTLE_S)
        yield
        if waiting.done():
            raise ClusterError(f"{instance.system.name}'s {instance.spec.role} instance did not wait")
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    # SGLang looks for clients that have left every 4 s.
    await asyncio.sleep(6)


async def measure(
    rounds: Rounds,
    instances: list[InstanceProcesses],
    session: aiohttp.ClientSession,
    options: argparse.Namespace,
) -> None:
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}: idle", file=sys.stderr)
        await asyncio.sleep(SETTLE_S)
        for instance, share in zip(instances, await shares(instances, options.seconds), strict=True):
            rounds.note("idle", instance.system.name, **{f"{instance.spec.role}_percent": share})
        for instance in instances:
            name = f"{instance.system.name} {instance.spec.role}"
            print(f"round {number + 1} of {options.rounds}: {name} waits", file=sys.stderr)
            async with half_a_request(session, instance):
                (share,) = await shares([instance], options.seconds / 3)
            rounds.note("waiting", instance.system.name, **{f"{instance.spec.role}_percent": share})


def bars(rounds: Rounds) -> list[Bar]:
    return [
        at_most(
            f"{role} instance, {state}",
            rounds.median(state, OURS, f"{role}_percent"),
            bar,
            "% of a core",
            "-",
        )
        for state, bar in BARS.items()
        for role in ("prefill", "decode")
    ]


async def benchmark(options: argparse.Namespace) -> None:
    if not options.without_peer:
        PEERS.require()
    skipped = ["Mooncake TCP: --without-peer"] if options.without_peer else []
    rounds = Rounds()
    async with AsyncExitStack() as stack:
        engine = EngineSpec(model=resolve_model(None), attention_backend="torch_native")
        builder = await stack.enter_async_context(building(engine, options.port, options.log_dir))
        systems = [builder.pair(OURS)]
        if not options.without_peer:
            systems.append(builder.stock_pair(MOONCAKE, PEERS))
        await stack.enter_async_context(builder.serving(*systems))
        instances = [InstanceProcesses.find(system, spec) for system in systems for spec in system.instances]
        await measure(rounds, instances, builder.session, options)
    print(rounds.table())
    machine = machine_description("sglang", "sglang-memserve") | PEERS.versions()
    conclude(machine, rounds.results(), bars(rounds), skipped, json=options.json)


def main() -> int:
    parser = command.parser(__doc__, rounds=3, full="three times the rounds", port=39000, peer="Mooncake")
    parser.add_argument("--seconds", type=float, default=30.0, help="of idleness in a round (default: 30)")
    parser.add_argument("--log-dir", type=Path, help="keep the processes' logs here")
    options = parser.parse_args()
    options.rounds *= 3 if options.full else 1
    return children.run(benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
