"""A rising load of prompts that begin alike, through a router: one of two instances has the beginning."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import orjson

from benchmark.decisions.points import drawn
from benchmark.decisions.spread import Decision, HotPrefixSpread
from benchmark.decisions.two import Two
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import Builder
from sglang_memserve.bench.serving.answer import RequestError
from sglang_memserve.bench.serving.apis import Generate, RequestSettings
from sglang_memserve.bench.serving.client import Client
from sglang_memserve.bench.serving.replay import replay
from sglang_memserve.bench.workloads.form import Workload, WorkloadSession, WorkloadTurn
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import ClusterError

# Of each prompt, in tokens: what all have, and what each has of its own; and of each answer.
PREFIX, OWN, ANSWER = 2000, 64, 8
_REQUEST_S, _RUN_S, _KNOWN_S = 180.0, 400.0, 20.0
_MAX_DECISIONS = 5000


@dataclass(frozen=True)
class Heat:
    """A load: so many requests a second, each for `seconds`. `profile`: what the router prices by, at this
    bandwidth; `recompute_s`: what it says of computing all of such a prompt.
    """

    bandwidth: float
    profile: Path
    recompute_s: float
    rates: Sequence[float]
    seconds: float
    seed: int


def rising(rates: Sequence[float], seconds: float, rng: Random) -> list[float]:
    """When requests are due: at random (Poisson), for so many seconds at each of the rates."""
    due: list[float] = []
    for number, rate in enumerate(rates):
        at = number * seconds
        while (at := at + rng.expovariate(rate)) < (number + 1) * seconds:
            due.append(at)
    return due


def workload(prefix: Sequence[int], due: Sequence[float], rng: Random) -> Workload:
    sessions = (
        WorkloadSession(str(number), at, (WorkloadTurn((*prefix, *drawn(rng, OWN)), ANSWER),))
        for number, at in enumerate(due)
    )
    return Workload("one hot prefix", tuple(sessions))


async def heated(builder: Builder, two: Two, policy: str, heat: Heat) -> HotPrefixSpread:
    """The same requests at the same moments for every policy. Raises ClusterError."""
    rng, session = Random(f"{heat.seed} hot"), two.here.session
    prefix, due = drawn(rng, PREFIX), rising(heat.rates, heat.seconds, rng)
    asked = workload(prefix, due, rng)
    await two.forget()
    async with _router(builder, two, policy, heat.profile) as url:
        client = Client(session, url, _REQUEST_S)
        hot = await _warmed(client, prefix)
        begun = time.time()
        print(f"{policy}: {len(due)} requests of a prefix that {hot} has", file=sys.stderr)
        run = await replay(
            asked, client, lambda name: Generate(RequestSettings(), name), lambda _: None, _RUN_S
        )
        decisions = [
            decision for decision in await _decisions(client, _MAX_DECISIONS) if decision["time"] >= begun
        ]
    starts = {rate: number * heat.seconds for number, rate in enumerate(heat.rates)}
    return HotPrefixSpread(
        policy, heat.bandwidth, hot, 1e3 * heat.recompute_s, starts, run.records, decisions
    )


@asynccontextmanager
async def _router(builder: Builder, two: Two, policy: str, profile: Path) -> AsyncIterator[str]:
    """Its URL, once it knows that both instances serve."""
    instances = [spec for system in two.systems for spec in system.instances]
    flags = ("--policy", policy, "--profile", str(profile), "--decisions-kept", str(_MAX_DECISIONS))
    system = builder.routed(policy, instances, *flags)
    assert system.router is not None
    async with children.running([system.router]):
        deadline = time.monotonic() + _KNOWN_S
        while len(await probe.healthy_workers(builder.session, system.url)) < len(instances):
            if time.monotonic() > deadline:
                raise ClusterError(f"{system.url}: after {_KNOWN_S:.0f} s not both instances are healthy")
            await asyncio.sleep(0.1)
        yield system.url


async def _warmed(client: Client, prefix: Sequence[int]) -> str:
    """The URL of the instance that has the prefix, once the router knows."""
    body = {"input_ids": list(prefix), "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
    try:
        await client.ask(Generate(RequestSettings()), orjson.dumps(body | {"stream": True}))
    except RequestError as error:
        raise ClusterError(f"{client.url}: the hot prefix got no answer: {error}") from error
    hot = str((await _decisions(client, 1))[0]["decode"])
    deadline = time.monotonic() + _KNOWN_S
    while not _has(await probe.ask(client.session, f"{client.url}/explain", body), hot):
        if time.monotonic() > deadline:
            raise ClusterError(f"{client.url} does not know after {_KNOWN_S:.0f} s what {hot} has")
        await asyncio.sleep(0.1)
    return hot


def _has(record: Mapping[str, Any], hot: str) -> bool:
    return any(candidate["url"] == hot and candidate["cached_tokens"] for candidate in record["candidates"])


async def _decisions(client: Client, count: int) -> list[Decision]:
    """The latest, the newest first."""
    answer = await probe.ask(client.session, f"{client.url}/decisions?last={count}")
    return list(answer["decisions"])
