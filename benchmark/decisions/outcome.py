"""What bench_decisions has found out, for readers and as JSON."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmark.bars import Bar, conclude
from benchmark.decisions import judged, spread
from benchmark.decisions.arguments import CROSSOVER, PARTS, DecisionsArguments
from benchmark.decisions.points import FetchPoint
from benchmark.decisions.spread import HotPrefixSpread
from router.cost import Profile
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.machine import machine_description


@dataclass
class DecisionsOutcome:
    asked: DecisionsArguments
    profile: Profile | None = None
    points: list[FetchPoint] = field(default_factory=list)
    spreads: list[HotPrefixSpread] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not self.points and not self.spreads

    def publish(self, ended: Exception | None) -> None:
        """Prints what there is. `ended`: what ended it early."""
        latencies, bars = self._latencies(), self._bars()
        if self.points:
            print(judged.table(self.points), judged.crossovers(self.points), sep="\n\n", end="\n\n")
        if self.spreads:
            lines = [f"{spread.name}: {spread.described()}" for spread in self.spreads]
            print(latencies.table(), "\n".join(lines), sep="\n\n", end="\n\n")
        left = [f"{part}: --part" for part in PARTS if part not in self.asked.parts]
        left += [f"the rest: {ended}"] if ended else []
        settings = {name: getattr(self.asked, name) for name in ("attention_backend", "threads", "seed")}
        machine = machine_description("sglang", "torch", "sglang-memserve") | settings
        conclude(machine, self._results(latencies), bars, left, json=self.asked.json)

    def _latencies(self) -> Rounds:
        rounds = Rounds()
        for measured in self.spreads:
            measured.note(rounds)
        return rounds

    def _bars(self) -> list[Bar]:
        found = judged.bars(self.points) if CROSSOVER in self.asked.parts else []
        return found + spread.bars(self.spreads)

    def _results(self, latencies: Rounds) -> dict[str, Any]:
        return {
            "points": judged.rounds_of(self.points).results(),
            "crossover_tokens": {f"{at:.0f}": found for at, found in judged.by_length(self.points).items()},
            "crossover_bandwidth": judged.by_bandwidth(self.points),
            "spread": {spread.name: spread.described() for spread in self.spreads},
            "hot": latencies.results(),
            "profile": msgspec.to_builtins(self.profile),
        }
