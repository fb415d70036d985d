#!/usr/bin/env python3
"""How long does a routing decision take, from token ids to a choice on record? One thread.

24 prefill, 24 decode and 16 colocated instances. The prompt tree holds 1M blocks of 16 tokens: sessions that
have grown turn by turn, each on one pair or colocated instance, under system prompts that all instances have.
Every second session is in DRAM as well. `prompt_tree` is fed by events: the instances' indexes and feeds are
in a process of their own, and are followed over real sockets. `answers` learns all of it from answers.
Decisions are about next turns of sessions at random (a long match), about new questions under a known system
prompt, and about prompts that nobody has seen, in turn; every choice is charged and released.

Last, the same decisions while the HBM of all instances changes by 100K blocks a second, new runs of 64 blocks
for the oldest blocks: from when the event loop could have begun with it until it is made, event loop shared.
Figures are medians of the rounds with lowest and highest. Tokenising is not in them.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import itertools
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import psutil
import uvloop

from benchmark import command
from benchmark.bars import Bar, at_least, at_most, conclude
from benchmark.feeding import INCARNATION, Feeding, Placed, feeding
from mempool.address import Medium
from router.config.settings import RouterConfig
from router.cost.estimator import CostEstimator
from router.cost.speeds import Speeds
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.instances.server_info import FeedAt, ServerInfo
from router.kv_events import Feeds
from router.policies import POLICIES
from router.prefix_tree import EventTree, PromptTree, ResponseTree
from router.prompt.request import RoutingRequest, TokenArray
from router.prompt.tokens import Tokens
from router.scheduling.placement import Reservations
from router.scheduling.scheduler import Scheduler
from sglang_memserve.bench.figures import Rounds, percentile
from sglang_memserve.machine import machine_description

PAGE, VOCABULARY = 16, 50_000
INSTANCES = {Role.PREFILL: 24, Role.DECODE: 24, Role.COLOCATED: 16}
SYSTEM, TURN, SYSTEMS = 512, 512, 8
MOST_TOKENS = 1 << 30
LENGTHS = (4096, 131_072)
# By prompt length: the share of the decisions, and microseconds.
ANSWERS, PRICED, EVENTS = "answers", "cost_model", "4096 tokens, beside events"
EVENT_BLOCKS, MEANWHILE_US = 100_000.0, 2000.0
# Events come somewhat faster than is promised, and the last of them is awaited.
EVENT_RATE = 1.1 * EVENT_BLOCKS
BARS = {4096: ((0.5, 100.0), (0.99, 500.0)), 131_072: ((0.5, 3000.0),)}


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
    systems = rng.integers(1, VOCABULARY, (SYSTEMS, SYSTEM), dtype=np.int32)
    count = max(1, blocks * PAGE // (length - SYSTEM))
    own = rng.integers(1, VOCABULARY, (count, length - SYSTEM), dtype=np.int32)
    return [np.concatenate([systems[number % SYSTEMS], mine]) for number, mine in enumerate(own)]


def placed(blocks: int, length: int) -> Iterator[Placed]:
    """The sessions turn by turn, and who has them."""
    rng = np.random.default_rng(2)
    by_role = {role: [n for n, own in enumerate(roles()) if own is role] for role in INSTANCES}
    for number, prompt in enumerate(sessions(blocks, length)):
        if number < SYSTEMS:
            yield from (Placed(holder, Medium.HBM, prompt[:SYSTEM]) for holder in range(len(roles())))
        served = (Role.COLOCATED,) if rng.random() < 0.25 else (Role.PREFILL, Role.DECODE)
        holders = [rng.choice(by_role[role]) for role in served]
        for end in [*range(SYSTEM + TURN, len(prompt), max(TURN, len(prompt) // 16)), len(prompt)]:
            for holder in holders:
                yield Placed(holder, Medium.HBM, prompt[:end])
                if number % 2:
                    yield Placed(holder, Medium.DRAM, prompt[:end])


def requests(prompts: list[TokenArray], rng: np.random.Generator) -> Iterator[RoutingRequest]:
    """Endless: a next turn, a new question under a known system prompt, something new."""
    for number in itertools.count():
        prompt = prompts[rng.integers(len(prompts))]
        known = (len(prompt) - 64, SYSTEM, 0)[number % 3]
        new = rng.integers(1, VOCABULARY, len(prompt) - known, dtype=np.int32)
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
async def followed(where: BenchedScheduler, tree: EventTree, source: Feeding) -> AsyncIterator[Feeds]:
    """Once all that instances have is in the tree."""
    for instance, endpoint in zip(where.instances, source.endpoints, strict=True):
        info = ServerInfo(page_size=PAGE, instance=instance.url, feed=FeedAt(endpoint, INCARNATION))
        instance.learn(info)
    feeds = Feeds(where.instances, tree.mirrors)
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


async def absorb(
    rounds: Rounds,
    options: argparse.Namespace,
    where: BenchedScheduler,
    source: Feeding,
    prompts: list[TokenArray],
) -> None:
    """The decisions of one round beside the events of `options.seconds`, until the last of them is here."""
    took: list[float] = []
    everybody, began = len(where.instances), time.perf_counter()
    beside = asyncio.create_task(decide_beside(where, requests(prompts, np.random.default_rng(3)), took))
    churned = await asyncio.to_thread(source.churn, EVENT_RATE, options.seconds)
    ended, last = time.perf_counter(), np.append(churned.last, 1).astype(np.int32)
    while len(where.tree.match(last, "")) < everybody:
        await asyncio.sleep(0.001)
    beside.cancel()
    await asyncio.gather(beside, return_exceptions=True)
    rounds.note(
        EVENTS,
        "prompt_tree",
        blocks_s=churned.blocks / (time.perf_counter() - began),
        behind_ms=(time.perf_counter() - ended) * 1e3,
        decisions=len(took),
        decision_p50_us=percentile(took, 0.5),
        decision_p99_us=percentile(took, 0.99),
        decision_most_us=max(took),
    )


async def measure_answers(rounds: Rounds, options: argparse.Namespace, length: int) -> None:
    tree = EventTree(600, 5, MOST_TOKENS)
    where, prompts = benched("prompt_tree", tree), sessions(options.blocks, length)
    with feeding(len(roles()), PAGE, partial(placed, options.blocks, length)) as source:
        before, began = resident(), time.perf_counter()
        async with followed(where, tree, source):
            took = time.perf_counter() - began
            grown, blocks = resident() - before, tree.sizes()["tokens"] // PAGE
            rounds.note(f"{length} tokens", "prompt_tree", blocks=blocks, snapshots_s=took)
            if length == LENGTHS[0]:
                # Of the first tree alone: later ones are built in memory that this one gave back.
                rounds.note(f"{length} tokens", "prompt_tree", bytes_a_block=grown / blocks)
            for _ in range(options.rounds):
                note_decisions(rounds, options, "prompt_tree", where, prompts)
                await asyncio.sleep(0.1)
            for _ in range(options.rounds if length == LENGTHS[0] else 0):
                await absorb(rounds, options, where, source, prompts)


def resident() -> int:
    """Bytes in use; what messages were in is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


async def measure(rounds: Rounds, options: argparse.Namespace, length: int, arm: str) -> None:
    tree = ResponseTree(1e9, MOST_TOKENS)
    where, prompts = benched("prompt_tree" if arm == ANSWERS else arm, tree), sessions(options.blocks, length)
    inserted, began = 0, time.perf_counter()
    for number, medium, tokens in placed(options.blocks, length) if arm in (ANSWERS, PRICED) else ():
        if medium is Medium.HBM:
            tree.stored(where.instances[number], tokens, "")
            inserted += 1
    if inserted:
        insertion_us = (time.perf_counter() - began) / inserted * 1e6
        rounds.note(f"{length} tokens", arm, blocks=tree.sizes()["tokens"] // PAGE, insertion_us=insertion_us)
    for _ in range(options.rounds):
        note_decisions(rounds, options, arm, where, prompts)


def note_decisions(
    rounds: Rounds, options: argparse.Namespace, arm: str, where: BenchedScheduler, prompts: list[TokenArray]
) -> None:
    length = len(prompts[0])
    stream = requests(prompts, np.random.default_rng(4))
    took = decide(where, stream, options.decisions * 4096 // length + 300)
    rounds.note(f"{length} tokens", arm, decision_p50_us=percentile(took, 0.5))
    rounds.note(f"{length} tokens", arm, decision_p99_us=percentile(took, 0.99))


def bars(rounds: Rounds) -> list[Bar]:
    decisions = [
        at_most(
            f"{policy}: decision from {length} tokens, p{share * 100:g}",
            rounds.median(f"{length} tokens", policy, f"decision_p{share * 100:g}_us"),
            bar,
            "us",
            "a promise",
        )
        for policy in ("prompt_tree", PRICED)
        for length, bounds in BARS.items()
        for share, bar in bounds
    ]
    absorbed = rounds.median(EVENTS, "prompt_tree", "blocks_s")
    meanwhile = rounds.median(EVENTS, "prompt_tree", "decision_p99_us")
    return [
        *decisions,
        at_least("events absorbed", absorbed, EVENT_BLOCKS, "blocks/s", "a promise"),
        at_most("decision meanwhile, p99", meanwhile, MEANWHILE_US, "us", "a promise"),
    ]


def main() -> int:
    parser = command.parser(__doc__, rounds=5)
    parser.add_argument(
        "--decisions", type=int, default=3000, help="in a round, of 4K tokens (default: 3000)"
    )
    parser.add_argument("--blocks", type=int, default=1 << 20, help="in the tree (default: 1Mi)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of events, in a round (default: 5)")
    options = parser.parse_args()
    rounds = Rounds()
    for length in LENGTHS:
        uvloop.run(measure_answers(rounds, options, length))
        for arm in (ANSWERS, PRICED, "least_load", "round_robin"):
            uvloop.run(measure(rounds, options, length, arm))
    print(rounds.table())
    conclude(machine_description("numpy"), rounds.results(), bars(rounds), json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
