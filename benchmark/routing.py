"""What a router decides with, without its HTTP side, under the load of a large cluster."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmark.feeding import INCARNATION, Feeding, Placed
from mempool.address import Medium
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess
from router.config.settings import RouterConfig
from router.cost.estimator import CostEstimator
from router.cost.speeds import Speeds
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.instances.server_info import FeedAt, ServerInfo
from router.kv_events import Feeds
from router.policies import POLICIES
from router.prefix_tree import EventTree, PromptTree
from router.prompt.request import RoutingRequest, TokenArray
from router.prompt.tokens import Tokens
from router.scheduling.placement import Reservations
from router.scheduling.scheduler import Scheduler

PAGE = 16
INSTANCES = {Role.PREFILL: 24, Role.DECODE: 24, Role.COLOCATED: 16}
_VOCABULARY = 50_000
_SYSTEM, _TURN, _SYSTEMS = 512, 512, 8


class Absorbed(NamedTuple):
    """Events that the tree has taken: how many blocks a second, how long after the last one came it had that
    (ms), and how long each decision beside them took (us).
    """

    blocks_s: float
    behind_ms: float
    decisions_us: list[float]


@dataclass(frozen=True)
class BenchedScheduler:
    """What a router decides with, without its HTTP side: its instances, their tree and the scheduler."""

    candidates: Candidates
    tree: PromptTree
    scheduler: Scheduler

    @property
    def instances(self) -> tuple[Instance, ...]:
        return self.candidates.instances


def benched(policy: str, tree: PromptTree) -> BenchedScheduler:
    """With instances of its own."""
    instances = [Instance(f"http://10.0.0.{number}:30000", role) for number, role in enumerate(roles())]
    for instance in instances:
        instance.up()
        instance.learn(ServerInfo(page_size=PAGE, instance=instance.url))
    config = RouterConfig(colocated=("http://127.0.0.1:1",), policy=policy)
    registry = Registry(instances)
    tokens = Tokens(instances, "", 1.0)
    estimator = CostEstimator(Speeds())
    chooses = POLICIES[policy](tree, estimator)
    loop = asyncio.get_running_loop()
    scheduler = Scheduler(config, registry, chooses, tree, tokens, estimator, timer=loop)
    return BenchedScheduler(registry.candidates, tree, scheduler)


def roles() -> list[Role]:
    return [role for role, count in INSTANCES.items() for _ in range(count)]


def sessions(blocks: int, length: int) -> list[TokenArray]:
    """Prompts of `length` tokens under one of a few system prompts; `blocks` together, near enough."""
    rng = np.random.default_rng(1)
    systems = rng.integers(1, _VOCABULARY, (_SYSTEMS, _SYSTEM), dtype=np.int32)
    count = max(1, blocks * PAGE // (length - _SYSTEM))
    own = rng.integers(1, _VOCABULARY, (count, length - _SYSTEM), dtype=np.int32)
    return [np.concatenate([systems[number % _SYSTEMS], mine]) for number, mine in enumerate(own)]


def placed(blocks: int, length: int) -> Iterator[Placed]:
    """The sessions turn by turn, and who has them."""
    rng = np.random.default_rng(2)
    by_role = {role: [n for n, own in enumerate(roles()) if own is role] for role in INSTANCES}
    for number, prompt in enumerate(sessions(blocks, length)):
        if number < _SYSTEMS:
            yield from (Placed(holder, Medium.HBM, prompt[:_SYSTEM]) for holder in range(len(roles())))
        served = (Role.COLOCATED,) if rng.random() < 0.25 else (Role.PREFILL, Role.DECODE)
        holders = [rng.choice(by_role[role]) for role in served]
        for end in [*range(_SYSTEM + _TURN, len(prompt), max(_TURN, len(prompt) // 16)), len(prompt)]:
            for holder in holders:
                yield Placed(holder, Medium.HBM, prompt[:end])
                if number % 2:
                    yield Placed(holder, Medium.DRAM, prompt[:end])


def requests(prompts: list[TokenArray], rng: np.random.Generator) -> Iterator[RoutingRequest]:
    """Endless: a next turn, a new question under a known system prompt, something new."""
    for number in itertools.count():
        prompt = prompts[rng.integers(len(prompts))]
        known = (len(prompt) - 64, _SYSTEM, 0)[number % 3]
        new = rng.integers(1, _VOCABULARY, len(prompt) - known, dtype=np.int32)
        yield RoutingRequest(np.concatenate([prompt[:known], new]), prompt_tokens=len(prompt), new_tokens=128)


def decide(where: BenchedScheduler, stream: Iterator[RoutingRequest], count: int) -> list[float]:
    """Microseconds of each decision. The latest 256 stay charged, as if they ran."""
    took, running = [], list[Reservations]()
    for request in itertools.islice(stream, count):
        began = time.perf_counter()
        placement = where.scheduler.decide(where.candidates, request, "/generate")
        assert placement is not None
        reservations = placement.reserve()
        took.append((time.perf_counter() - began) * 1e6)
        running.append(reservations)
        if len(running) > 256:
            for reservation in running.pop(0):
                if reservation is not None:
                    reservation.release()
    return took


@asynccontextmanager
async def followed(
    where: BenchedScheduler, tree: EventTree, source: Feeding, access: ClusterAccess = LOOPBACK_ONLY
) -> AsyncIterator[Feeds]:
    """Once all that instances have is in the tree. `access`: to feeds that want a key."""
    for instance, endpoint in zip(where.instances, source.endpoints, strict=True):
        info = ServerInfo(page_size=PAGE, instance=instance.url, feed=FeedAt(endpoint, INCARNATION))
        instance.learn(info)
    feeds = Feeds(where.instances, tree.mirrors, access=access)
    task = asyncio.create_task(feeds.run())
    try:
        while not all_followed(feeds, len(where.instances)):
            await asyncio.sleep(0.02)
        yield feeds
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def all_followed(feeds: Feeds, instances: int) -> bool:
    states = [medium["state"] for media in feeds.describe().values() for medium in media.values()]
    return len(states) == len(Medium) * instances and set(states) == {"followed"}


async def decide_beside(where: BenchedScheduler, stream: Iterator[RoutingRequest], took: list[float]) -> None:
    """Adds microseconds of each decision, from when it was ready to be made, until it is cancelled."""
    for request in stream:
        await asyncio.sleep(0.001)
        began = time.perf_counter()
        await asyncio.sleep(0)
        where.scheduler.decide(where.candidates, request, "/generate")
        took.append((time.perf_counter() - began) * 1e6)


async def churned_beside(
    where: BenchedScheduler, source: Feeding, prompts: list[TokenArray], rate: float, seconds: float
) -> Absorbed:
    """Decisions of a round beside `rate` blocks a second for `seconds`, until the last of them is here."""
    took: list[float] = []
    everybody, began = len(where.instances), time.perf_counter()
    beside = asyncio.create_task(decide_beside(where, requests(prompts, np.random.default_rng(3)), took))
    churned = await asyncio.to_thread(source.churn, rate, seconds)
    ended, last = time.perf_counter(), np.append(churned.last, 1).astype(np.int32)
    while len(where.tree.match(last, "")) < everybody:
        await asyncio.sleep(0.001)
    beside.cancel()
    await asyncio.gather(beside, return_exceptions=True)
    now = time.perf_counter()
    return Absorbed(churned.blocks / (now - began), (now - ended) * 1e3, took)
