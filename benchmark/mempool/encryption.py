"""Blocks over stream://, encrypted against in clear."""

import contextlib
from collections.abc import Iterator
from typing import Any

from benchmark.bars import Bar, at_least
from benchmark.mempool.far import Far
from benchmark.mempool.plan import MeasurementPlan, say
from benchmark.mempool.throughput import ARENA_BYTES, KIB, MIB, ChannelPair, layout, one_transfer
from sglang_memserve.bench.figures import Rounds

CLEAR, ENCRYPTED = "in clear", "encrypted"
SIZES = {"64 KiB": 64 * KIB, "1 MiB": MIB}
BARRED, BAR = "1 MiB", 0.5
_RATIO = "times_in_clear"


def workload(size: str) -> str:
    return f"messages of {size}"


@contextlib.contextmanager
def pairs(plan: MeasurementPlan, size: str) -> Iterator[list[ChannelPair]]:
    """Blocks of that size, each a message of its own."""
    shape: dict[str, Any] = {
        "layout": layout(SIZES[size]),
        "blocks": ARENA_BYTES // SIZES[size],
        "piece_bytes": SIZES[size],
    }
    with contextlib.ExitStack() as stack:

        def far(arm: str, end: str) -> Far:
            return stack.enter_context(Far("channel", f"{arm} {end} {size}", plan.logs, **shape))

        yield [
            ChannelPair(arm, "stream", far(arm, "sender"), far(arm, "receiver"), encrypt=arm == ENCRYPTED)
            for arm in (CLEAR, ENCRYPTED)
        ]


def measure(rounds: Rounds, plan: MeasurementPlan) -> None:
    for size, message_bytes in SIZES.items():
        with pairs(plan, size) as found:
            for number, order in enumerate(plan.turns(size, found)):
                say(f"{workload(size)}: round {number + 1} of {plan.rounds}")
                speeds = {pair.name: one_transfer(pair, message_bytes, number + 1) for pair in order}
                for arm, speed in speeds.items():
                    rounds.note(workload(size), arm, gb_per_s=speed)
                rounds.note(workload(size), ENCRYPTED, **{_RATIO: speeds[ENCRYPTED] / speeds[CLEAR]})


def bars(rounds: Rounds) -> list[Bar]:
    ratio = rounds.median(workload(BARRED), ENCRYPTED, _RATIO)
    return [at_least(workload(BARRED), ratio, BAR, "x", CLEAR)]
