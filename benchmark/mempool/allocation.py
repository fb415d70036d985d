"""Part 1: what the allocator of a medium costs a block."""

import time
from collections import deque

import numpy as np

from benchmark.bars import Bar, at_most
from benchmark.mempool.plan import MeasurementPlan, say
from mempool.address import Addresses, Medium, Owner
from mempool.tiers.allocator import BlockAllocator
from sglang_memserve.bench.figures import Rounds

TOTAL, BATCH = 1_000_000, 1000
WORKLOAD, OURS, FIGURE = "alloc + free in batches of 1,000", "memserve", "ns_a_block"
BAR_NS = 100.0
_TURNS = 5


def half_full(total: int, batch: int) -> tuple[BlockAllocator, deque[Addresses]]:
    """An allocator with every second block free, by chance, and the batches that hold the others."""
    allocator = BlockAllocator(Owner("bench", 1, Medium.DRAM), total)
    blocks = np.random.default_rng(1).permutation(allocator.alloc(total).blocks)
    batches = [Addresses(allocator.owner, blocks[at : at + batch]) for at in range(0, total, batch)]
    for addresses in batches[::2]:
        allocator.free(addresses)
    return allocator, deque(batches[1::2])


def seconds_a_block(allocator: BlockAllocator, held: deque[Addresses], batch: int) -> float:
    """Takes a fifth of what is held besides, then frees as much of the oldest, until all has changed.

    A free and an alloc in turn would take the block that was freed last again and again.
    """
    batches, began = len(held) // _TURNS, time.perf_counter()
    for _ in range(_TURNS):
        for _ in range(batches):
            held.append(allocator.alloc(batch))
        for _ in range(batches):
            allocator.free(held.popleft())
    return (time.perf_counter() - began) / (_TURNS * batches * batch)


def measure(rounds: Rounds, plan: MeasurementPlan) -> list[str]:
    say("allocation: alloc and free")
    allocator, held = half_full(TOTAL, BATCH)
    for number in range(plan.rounds + 1):
        seconds = seconds_a_block(allocator, held, BATCH)
        if number:
            rounds.note(WORKLOAD, OURS, **{FIGURE: 1e9 * seconds})
    return []


def bars(rounds: Rounds) -> list[Bar]:
    value = rounds.median(WORKLOAD, OURS, FIGURE)
    return [
        at_most(f"{WORKLOAD}, {TOTAL:,} blocks half full", value, BAR_NS, "ns a block", "the paper's 800")
    ]
