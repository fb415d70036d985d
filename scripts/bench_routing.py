#!/usr/bin/env python3
"""How long does a routing decision take, from token ids to a choice on record? One thread, no sockets.

24 prefill, 24 decode and 16 colocated instances. The prompt tree holds 1M blocks of 16 tokens: sessions that
have grown turn by turn, each on one pair or colocated instance, under system prompts that all instances have.
Decisions are about next turns of sessions at random (a long match), about new questions under a known system
prompt, and about prompts that nobody has seen, in turn; every choice is charged and released.
Figures are medians of the rounds with lowest and highest. Tokenising is not in them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import psutil

from router.ask import Ask, TokenArray
from router.config import RouterConfig
from router.cost.pricing import Prices
from router.cost.speeds import Speeds
from router.instance import Instance, Role
from router.policies import POLICIES
from router.registry import Registry
from router.routing import Routing
from router.tokens import Tokens
from router.traits import Traits
from router.trees import ResponseTree
from router.work import Work
from sglang_memserve.bench import command
from sglang_memserve.bench.figures import Bar, Rounds, at_most, machine, percentile, report, show_bars

PAGE, VOCABULARY = 16, 50_000
INSTANCES = {Role.PREFILL: 24, Role.DECODE: 24, Role.COLOCATED: 16}
SYSTEM, TURN, SYSTEMS = 512, 512, 8
LENGTHS = (4096, 131_072)
# By prompt length: the share of the decisions, and microseconds.
BARS = {4096: ((0.5, 100.0), (0.99, 500.0)), 131_072: ((0.5, 3000.0),)}


@dataclass(frozen=True)
class House:
    """A router's head, without its hands."""

    registry: Registry
    tree: ResponseTree
    routing: Routing


def house(policy: str) -> House:
    instances = [
        Instance(f"http://10.0.{number}.{count}:30000", role)
        for number, (role, most) in enumerate(INSTANCES.items())
        for count in range(most)
    ]
    for one in instances:
        one.up()
        one.traits = Traits(page_size=PAGE, instance=one.url)
    config = RouterConfig(colocated=("http://127.0.0.1:1",), policy=policy)
    tree = ResponseTree(1e9, config.max_tree_size)
    registry = Registry(instances)
    tokens = Tokens(instances, "", 1.0)
    prices = Prices(Speeds())
    chooses = POLICIES[policy](tree, prices)
    return House(registry, tree, Routing(config, registry, chooses, tree, tokens, prices))


def sessions(rng: np.random.Generator, blocks: int, length: int) -> list[TokenArray]:
    """Prompts of `length` tokens under one of a few system prompts; `blocks` together, near enough."""
    systems = rng.integers(1, VOCABULARY, (SYSTEMS, SYSTEM), dtype=np.int32)
    count = max(1, blocks * PAGE // (length - SYSTEM))
    own = rng.integers(1, VOCABULARY, (count, length - SYSTEM), dtype=np.int32)
    return [np.concatenate([systems[number % SYSTEMS], mine]) for number, mine in enumerate(own)]


def fill(where: House, prompts: list[TokenArray], rng: np.random.Generator) -> float:
    """Insert them, turn by turn. Returns seconds an insertion."""
    told, began = 0, time.perf_counter()
    for number, prompt in enumerate(prompts):
        if number < SYSTEMS:
            for one in where.registry.instances:
                where.tree.stored(one, prompt[:SYSTEM], "")
            told += len(where.registry.instances)
        holders = holders_of(where.registry, rng)
        for end in range(SYSTEM + TURN, len(prompt) + 1, max(TURN, len(prompt) // 16)):
            for one in holders:
                where.tree.stored(one, prompt[:end], "")
            told += len(holders)
        for one in holders:
            where.tree.stored(one, prompt, "")
        told += len(holders)
    return (time.perf_counter() - began) / told


def holders_of(registry: Registry, rng: np.random.Generator) -> list[Instance]:
    roles = (Role.COLOCATED,) if rng.random() < 0.25 else (Role.PREFILL, Role.DECODE)
    return [one[rng.integers(len(one))] for one in map(registry.healthy, roles)]


def asks(prompts: list[TokenArray], rng: np.random.Generator) -> Iterator[Ask]:
    """Endless: a next turn, a new question under a known system prompt, something new."""
    for number in itertools.count():
        prompt = prompts[rng.integers(len(prompts))]
        known = (len(prompt) - 64, SYSTEM, 0)[number % 3]
        new = rng.integers(1, VOCABULARY, len(prompt) - known, dtype=np.int32)
        yield Ask(np.concatenate([prompt[:known], new]), prompt_tokens=len(prompt), new_tokens=128)


def decide(where: House, asked: Iterator[Ask], count: int) -> list[float]:
    """Microseconds of each decision. The latest 256 stay charged, as if they ran."""
    took, running = [], list[list[tuple[Instance, int, Work | None]]]()
    for ask in itertools.islice(asked, count):
        began = time.perf_counter()
        routed = where.routing.decide(where.registry, ask, "/generate")
        assert routed is not None
        charges = [(one, routed.charge(one), routed.work(one)) for one in routed.epochs]
        for one, charge, _ in charges:
            one.charge(charge)
        took.append((time.perf_counter() - began) * 1e6)
        running.append(charges)
        if len(running) > 256:
            for one, charge, work in running.pop(0):
                one.release(charge)
                if work is not None:
                    work.drop()
    return took


def measure(rounds: Rounds, options: argparse.Namespace, length: int, policy: str) -> None:
    rng = np.random.default_rng(1)
    where, prompts = house(policy), sessions(rng, options.blocks, length)
    process = psutil.Process()
    before = process.memory_info().rss
    insertion = fill(where, prompts, rng)
    grown = process.memory_info().rss - before
    blocks = where.tree.sizes()["tokens"] // PAGE
    workload = f"{length} tokens"
    for _ in range(options.rounds):
        took = decide(where, asks(prompts, rng), options.decisions * 4096 // length + 300)
        rounds.note(workload, policy, decision_p50_us=percentile(took, 0.5))
        rounds.note(workload, policy, decision_p99_us=percentile(took, 0.99))
    rounds.note(workload, policy, insertion_us=insertion * 1e6, blocks=blocks)
    if policy == "prompt_tree" and length == LENGTHS[0]:
        # Of the first tree alone: later ones are built in memory that this one gave back.
        rounds.note(workload, policy, bytes_a_block=grown / blocks)


def bars(rounds: Rounds) -> list[Bar]:
    return [
        at_most(
            f"{policy}: decision from {length} tokens, p{share * 100:g}",
            rounds.median(f"{length} tokens", policy, f"decision_p{share * 100:g}_us"),
            bar,
            "us",
            "a promise",
        )
        for policy in ("prompt_tree", "cost_model")
        for length, bounds in BARS.items()
        for share, bar in bounds
    ]


def main() -> int:
    parser = command.parser(__doc__, rounds=5)
    parser.add_argument(
        "--decisions", type=int, default=3000, help="in a round, of 4K tokens (default: 3000)"
    )
    parser.add_argument("--blocks", type=int, default=1 << 20, help="in the tree (default: 1Mi)")
    options = parser.parse_args()
    rounds = Rounds()
    for length in LENGTHS:
        for policy in ("prompt_tree", "cost_model", "least_load", "round_robin"):
            measure(rounds, options, length, policy)
    print(rounds.table())
    print(show_bars(bars(rounds)))
    if options.json:
        print(report(machine("numpy"), rounds.results(), bars(rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
