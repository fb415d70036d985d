"""Part 6: a prefix that three instances have, from one of them and from all, over links of bounded speed."""

import contextlib
from typing import Any

from benchmark.bars import Bar, at_least
from benchmark.mempool.far import Far
from benchmark.mempool.plan import MeasurementPlan, say
from benchmark.mempool.throughput import MIB, layout
from sglang_memserve.bench.figures import Rounds

WORKLOAD = "a prefix of 128 MiB, links of 100 MB/s"
SOURCES = ("s0", "s1", "s2")
ONE, THREE = "from one source", "from three"
ARMS = {ONE: SOURCES[:1], THREE: SOURCES}
BLOCK_BYTES, BLOCKS, BANDWIDTH = MIB, 128, 100_000_000
# Others may have 90 % of it.
ARENA_BLOCKS = 2 * BLOCKS
BAR = 2.5
_RATIO = "times_one_source"


def measure(rounds: Rounds, plan: MeasurementPlan) -> list[str]:
    shape = {"layout": layout(BLOCK_BYTES), "blocks": ARENA_BLOCKS}
    with contextlib.ExitStack() as stack:

        def far(name: str, bandwidth: int) -> Far:
            options: dict[str, Any] = {"instance": name, "max_bandwidth": bandwidth, **shape}
            return stack.enter_context(Far("pool", f"parts {name}", plan.logs, **options))

        fetcher, sources = far("fetcher", 0), [far(name, BANDWIDTH) for name in SOURCES]
        for source in sources:
            source.ask("introduce", info=fetcher.ask("info"))
            fetcher.ask("introduce", info=source.ask("info"))
        for number, order in enumerate(plan.turns(WORKLOAD, list(ARMS))):
            say(f"{WORKLOAD}: round {number + 1} of {plan.rounds}")
            for source in sources:
                source.ask("publish", blocks=BLOCKS, stamp=number + 1)
            seconds = {
                arm: float(fetcher.ask("fetch", sources=list(ARMS[arm]), blocks=BLOCKS, stamp=number + 1))
                for arm in order
            }
            for arm in ARMS:
                rounds.note(WORKLOAD, arm, seconds=seconds[arm], gb_per_s=BLOCKS * MIB / seconds[arm] / 1e9)
            rounds.note(WORKLOAD, THREE, **{_RATIO: seconds[ONE] / seconds[THREE]})
    return []


def bars(rounds: Rounds) -> list[Bar]:
    return [at_least(f"{WORKLOAD}, {THREE}", rounds.median(WORKLOAD, THREE, _RATIO), BAR, "x", ONE)]
