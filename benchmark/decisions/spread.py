"""Where the requests of a hot prefix went, from the router's own records."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from benchmark.bars import Bar, at_least, at_most
from sglang_memserve.bench.figures import Rounds, percentile
from sglang_memserve.bench.serving.answer import ReplayRecord

PRICED, UNPRICED = "cost_model", "prompt_tree"
Decision = Mapping[str, Any]


@dataclass(frozen=True)
class HotPrefixSpread:
    """A load under one policy, whose requests, `records`, were decided upon in `decisions`.

    `hot`: the URL of the instance that had the prefix; `recompute_ms`: what computing such a prompt is
    predicted to take; `starts`: when each rate began, in seconds, by requests a second.
    """

    policy: str
    bandwidth: float
    hot: str
    recompute_ms: float
    starts: Mapping[float, float]
    records: Sequence[ReplayRecord]
    decisions: Sequence[Decision]

    @property
    def name(self) -> str:
        return f"{self.policy} at {self.bandwidth / 1e6:.3g} MB/s"

    @property
    def elsewhere(self) -> int:
        return len(self.decisions) - len(self._at_hot)

    @property
    def share(self) -> float:
        """Of the requests, what the hot instance got; 0 without any."""
        return len(self._at_hot) / max(1, len(self.decisions))

    @property
    def queues(self) -> list[float]:
        """Predicted before each request that the hot instance got: ms."""
        return [_price(decision, self.hot)["queue_ms"] for decision in self._at_hot]

    @property
    def beyond(self) -> int:
        """Requests that waited there although to compute all of it elsewhere was predicted to be sooner."""
        return sum(
            _price(decision, self.hot)["queue_ms"] > self._computed_elsewhere(decision)
            for decision in self._at_hot
        )

    @property
    def ways(self) -> Counter[str]:
        """How many chosen instances were to find, fetch or compute the KV."""
        chosen = ((decision, decision["decode"]) for decision in self.decisions)
        return Counter(str((_price(*choice) or {}).get("plan")) for choice in chosen)

    @property
    def failed(self) -> int:
        return sum(record.answer is None for record in self.records)

    def note(self, rounds: Rounds) -> None:
        """TTFT, by the rate at which it was asked, and of all."""
        for rate, start in self.starts.items():
            later = [other for other in self.starts.values() if other > start]
            end = min(later, default=float("inf"))
            part = [record for record in self.records if start <= record.planned < end]
            if part:
                rounds.note(f"hot prefix, {rate:.3g} a second", self.name, **_latencies(part))
        rounds.note("hot prefix, all of it", self.name, **_latencies(self.records))

    def described(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "requests": len(self.decisions),
            "failed": self.failed,
            "share_on_hot": round(self.share, 3),
        }
        if self.policy == PRICED:
            found |= {
                "ways": dict(self.ways),
                "recompute_ms": round(self.recompute_ms, 1),
                "longest_queue_at_hot_ms": max(self.queues, default=0.0),
                "waited_though_elsewhere_was_sooner": self.beyond,
            }
        return found

    @property
    def _at_hot(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision["decode"] == self.hot]

    def _computed_elsewhere(self, decision: Decision) -> float:
        """The other instance's queue, and computing all of the prompt: ms; infinite where there was none."""
        price = next(
            (candidate["cost"] for candidate in decision["candidates"] if candidate["url"] != self.hot), None
        )
        if price is None:
            return inf
        computing = price["exec_ms"] if price["plan"] == "recompute" else self.recompute_ms
        return float(price["queue_ms"] + computing)


def _price(decision: Decision, url: str) -> Any:
    return next(candidate["cost"] for candidate in decision["candidates"] if candidate["url"] == url)


def _latencies(records: Sequence[ReplayRecord]) -> dict[str, float]:
    times = [1e3 * record.answer.ttft for record in records if record.answer is not None]
    if not times:
        return {}
    return {
        "requests": len(records),
        "ttft_p50_ms": percentile(times, 0.5),
        "ttft_p99_ms": percentile(times, 0.99),
    }


def bars(spreads: Sequence[HotPrefixSpread]) -> list[Bar]:
    """None is met by a run in which a request failed."""
    return [
        bar
        for spread in spreads
        for bar in (_priced(spread) if spread.policy == PRICED else _unpriced(spread))
    ]


def _priced(spread: HotPrefixSpread) -> list[Bar]:
    beyond, elsewhere = (None, None) if spread.failed else (spread.beyond, spread.elsewhere)
    queued = f"{spread.name}: sent to the hot instance's queue though computing elsewhere is sooner"
    return [
        at_most(queued, beyond, 0, "requests", "the other instance"),
        at_least(f"{spread.name}: sent to the other instance", elsewhere, 1, "requests", "the hot one"),
    ]


def _unpriced(spread: HotPrefixSpread) -> list[Bar]:
    share = None if spread.failed else spread.share
    return [at_least(f"{spread.name}: share that the hot instance gets", share, 1, "", PRICED)]
