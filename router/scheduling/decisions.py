"""The latest decisions, each with what was known when it was made and what came of it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from router.cost.estimate import CostEstimate
from router.instances.instance import Instance
from router.policies import Route
from router.prefix_tree import NOTHING, Cached
from router.protocol.usage import Outcome

# Whether the router's idea of a prompt is the engine's.
_EQUAL, _DIFFERENT, _UNTOLD = "prompt_tokens_equal", "prompt_tokens_different", "prompt_tokens_untold"


@dataclass(slots=True)
class Decision:
    """`loads`: tokens charged to each of `healthy` instances before this. `took`: seconds.

    `prompt_tokens` is a guess unless `tokenised`. `outcome`, and `prefilled`, the seconds until prefill was
    over: None until that is known, and where nobody watches. `alone`: nothing else was prefilled there.
    """

    policy: str
    path: str
    prompt_tokens: int
    tokenised: bool
    route: Route
    healthy: list[Instance]
    loads: list[int]
    took: float
    at: float = field(default_factory=time.time)
    outcome: Outcome | None = None
    prefilled: float | None = None
    alone: bool = False

    @property
    def predicted(self) -> int:
        """How many of the prompt's tokens need no prefill."""
        return self.route.cached.get(self.route.first, NOTHING).tokens

    def describe(self) -> dict[str, Any]:
        route = self.route
        cached, fetch = route.cached, route.fetch
        outcome, estimate = self.outcome or Outcome(), route.estimate(route.first)
        return {
            "time": self.at,
            "policy": self.policy,
            "path": self.path,
            "decision_us": round(self.took * 1e6, 1),
            "prompt_tokens": self.prompt_tokens,
            "tokenised": self.tokenised,
            "candidates": [
                _candidate(one, cached.get(one, NOTHING), load, self.route.estimate(one))
                for one, load in zip(self.healthy, self.loads, strict=True)
            ],
            "prefill": route.prefill and route.prefill.url,
            "decode": route.decode.url,
            "fetch": fetch and {**fetch._asdict(), "source": fetch.source.url},
            "predicted_cached_tokens": self.predicted if self.tokenised else None,
            "actual_prompt_tokens": outcome.prompt_tokens,
            "actual_cached_tokens": outcome.cached_tokens,
            "predicted_prefill_ms": estimate and _ms(estimate.until_prefilled_s),
            "actual_prefill_ms": _ms(self.prefilled),
        }


def _candidate(one: Instance, has: Cached, load: int, estimate: CostEstimate | None) -> dict[str, Any]:
    return {
        "url": one.url,
        "role": one.role.value,
        "cached_tokens": has.tokens,
        "cached_tokens_in_hbm": has.hbm,
        "charged_tokens": load,
        "price": estimate and _price(estimate, has),
    }


def _price(estimate: CostEstimate, has: Cached) -> dict[str, Any]:
    """In ms; what the candidate has no part in is null."""
    plan = estimate.plan
    return {
        "how": plan and ("fetch" if plan.fetch else "route" if has.tokens else "recompute"),
        "source": plan and plan.fetch and plan.fetch.source.url,
        "queue_ms": plan and _ms(estimate.queue_s),
        "fetch_ms": plan and _ms(plan.fetch_s + plan.swap_in_s),
        "exec_ms": plan and _ms(plan.compute_s),
        "sending_ms": _ms(estimate.send_s),
        "decoding_ms": _ms(estimate.decode_s),
        "total_ms": _ms(estimate.total_s),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)


class Watcher(Protocol):
    def decided(self, decision: Decision) -> None: ...

    def ended(self, decision: Decision) -> None:
        """Its outcome is known now."""
        ...


class Decisions:
    """The latest `most`.

    `counts`: tokens and predictions compared with what engines reported. `prediction_outcomes`: how many
    predictions of cached tokens came true, and why others did not.
    """

    def __init__(self, most: int) -> None:
        self.counts: Counter[str] = Counter()
        self.prediction_outcomes: Counter[str] = Counter()
        self.watchers: list[Watcher] = []
        self._latest: deque[Decision] = deque(maxlen=most)

    def add(self, decision: Decision) -> None:
        self._latest.append(decision)
        for watcher in self.watchers:
            watcher.decided(decision)

    def ended(self, decision: Decision, outcome: Outcome, *, forgot: bool = False) -> None:
        """`forgot`: whether what the chosen instance had when it was chosen is gone since."""
        # Thousands of these are kept.
        decision.outcome = replace(outcome, output_ids=())
        told = outcome.prompt_tokens
        equal = _EQUAL if told == decision.prompt_tokens else _DIFFERENT
        self.counts[_UNTOLD if told is None else equal] += 1
        if outcome.cached_tokens is not None:
            self.counts["cached_tokens_predicted"] += decision.predicted
            self.counts["cached_tokens_actual"] += outcome.cached_tokens
            self.prediction_outcomes[_prediction_outcome(decision, told, outcome.cached_tokens, forgot)] += 1
        for watcher in self.watchers:
            watcher.ended(decision)

    def last(self, count: int) -> Iterable[Decision]:
        """The latest `count`, the newest first."""
        return [one for one, _ in zip(reversed(self._latest), range(count), strict=False)]


def _prediction_outcome(decision: Decision, prompt: int | None, cached: int, forgot: bool) -> str:
    """Of a prediction, in words by which it is counted."""
    if cached == decision.predicted:
        return "as predicted"
    if cached > decision.predicted:
        return "more"
    if prompt is not None and prompt != decision.prompt_tokens:
        return "less: other tokens"
    if forgot:
        return "less: forgotten"
    return "less: in part" if cached else "less: nothing there"
