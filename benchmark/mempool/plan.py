"""What the parts of a run have in common."""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sglang_memserve.bench.peers import StockPeers

T = TypeVar("T")


@dataclass(frozen=True)
class MeasurementPlan:
    """`rounds`: how often all is measured; `logs`: where processes write; `peers`: None to do without."""

    rounds: int
    logs: Path
    peers: StockPeers | None

    def turns(self, part: str, arms: Sequence[T], seed: int = 0) -> list[list[T]]:
        """The arms for each round, in another order each time, so that none always has the better moments."""
        shuffled = [list(arms) for _ in range(self.rounds)]
        for number, order in enumerate(shuffled):
            random.Random(f"{part} {seed} {number // 2}").shuffle(order)
            if number % 2:
                order.reverse()
        return shuffled


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
