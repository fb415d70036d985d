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
import sys
import time
from functools import partial

import numpy as np
import psutil
import uvloop

from benchmark import command
from benchmark.bars import Bar, at_least, at_most, conclude
from benchmark.feeding import Feeding, feeding
from benchmark.routing import (
    PAGE,
    BenchedScheduler,
    benched,
    churned_beside,
    decide,
    followed,
    placed,
    requests,
    roles,
    sessions,
)
from mempool.address import Medium
from router.prefix_tree import EventTree, ResponseTree
from router.prompt.request import TokenArray
from sglang_memserve.bench.figures import Rounds, percentile
from sglang_memserve.machine import machine_description

MOST_TOKENS = 1 << 30
LENGTHS = (4096, 131_072)
# By prompt length: the share of the decisions, and microseconds.
ANSWERS, PRICED, EVENTS = "answers", "cost_model", "4096 tokens, beside events"
EVENT_BLOCKS, MEANWHILE_US = 100_000.0, 2000.0
# Events come somewhat faster than is promised, and the last of them is awaited.
EVENT_RATE = 1.1 * EVENT_BLOCKS
BARS = {4096: ((0.5, 100.0), (0.99, 500.0)), 131_072: ((0.5, 3000.0),)}


async def absorb(
    rounds: Rounds,
    options: argparse.Namespace,
    where: BenchedScheduler,
    source: Feeding,
    prompts: list[TokenArray],
) -> None:
    """The decisions of one round beside the events of `options.seconds`."""
    absorbed = await churned_beside(where, source, prompts, EVENT_RATE, options.seconds)
    took = absorbed.decisions_us
    rounds.note(
        EVENTS,
        "prompt_tree",
        blocks_s=absorbed.blocks_s,
        behind_ms=absorbed.behind_ms,
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
