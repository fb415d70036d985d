"""The latest decisions, each with what was known when it was made and what came of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from router.cost.estimate import CostEstimate, PrefillPlan
from router.instances.instance import Instance
from router.policies import Route
from router.prefix_tree import NOTHING, Cached
from router.protocol.usage import ReportedUsage

# Whether the engine counted as many prompt tokens as the router.
_EQUAL, _DIFFERENT = "prompt_tokens_equal", "prompt_tokens_different"
_UNREPORTED = "prompt_tokens_unreported"


@dataclass(slots=True, kw_only=True)
class Decision:
    """`made_at`: seconds since 1970. `charged`: the tokens charged to each of the `healthy` instances before.

    `prompt_tokens` is a guess unless `tokenised`, and what instances have of the prompt is one where it was
    compared `by_text`, in chunks of 4 bytes. `outcome`, and `prefill_s`, the seconds until prefill was
    over, are None until they are known, and where nobody watches. `alone`: no other prefill ran beside it.
    """

    policy: str
    path: str
    prompt_tokens: int
    tokenised: bool
    route: Route
    healthy: list[Instance]
    charged: list[int]
    decision_s: float
    made_at: float
    outcome: ReportedUsage | None = None
    prefill_s: float | None = None
    alone: bool = False
    by_text: bool = False

    def prefilled(self, seconds: float, alone: bool) -> None:
        self.prefill_s, self.alone = seconds, alone

    def answered(self, outcome: ReportedUsage) -> None:
        # Thousands of decisions are kept.
        self.outcome = replace(outcome, output_ids=())

    @property
    def predicted(self) -> int:
        """How many of the prompt's tokens are taken to need no prefill."""
        return self.route.cached.get(self.route.first, NOTHING).tokens

    @property
    def plan(self) -> str | None:
        """How the prompt's KV is come by: "route" to it, "fetch" it, or "recompute" it. None: not priced."""
        first = self.route.first
        estimate = self.route.estimate(first)
        if estimate is None or estimate.plan is None:
            return None
        return _plan(estimate.plan, self.route.cached.get(first, NOTHING))

    def describe(self) -> dict[str, Any]:
        route = self.route
        cached, fetch = route.cached, route.fetch
        outcome, estimate = self.outcome or ReportedUsage(), route.estimate(route.first)
        return {
            "time": self.made_at,
            "policy": self.policy,
            "path": self.path,
            "decision_us": round(self.decision_s * 1e6, 1),
            "prompt_tokens": self.prompt_tokens,
            "tokenised": self.tokenised,
            "by_text": self.by_text,
            "candidates": [
                _candidate(instance, cached.get(instance, NOTHING), charged, route.estimate(instance))
                for instance, charged in zip(self.healthy, self.charged, strict=True)
            ],
            "prefill": route.prefill and route.prefill.url,
            "decode": route.decode.url,
            "fetch": fetch and {**fetch._asdict(), "source": fetch.source.url},
            "predicted_cached_tokens": self.predicted if self.tokenised else None,
            "actual_prompt_tokens": outcome.prompt_tokens,
            "actual_cached_tokens": outcome.cached_tokens,
            "predicted_prefill_ms": estimate and _ms(estimate.until_prefilled_s),
            "actual_prefill_ms": _ms(self.prefill_s),
        }


def _candidate(
    instance: Instance, cached: Cached, charged: int, estimate: CostEstimate | None
) -> dict[str, Any]:
    return {
        "url": instance.url,
        "role": instance.role.value,
        "cached_tokens": cached.tokens,
        "cached_tokens_in_hbm": cached.hbm,
        "charged_tokens": charged,
        "cost": estimate and _cost(estimate, cached),
    }


def _cost(estimate: CostEstimate, cached: Cached) -> dict[str, Any]:
    """In ms; what the candidate has no part in is null."""
    plan = estimate.plan
    return {
        "plan": plan and _plan(plan, cached),
        "source": plan and plan.fetch and plan.fetch.source.url,
        "queue_ms": plan and _ms(estimate.queue_s),
        "fetch_ms": plan and _ms(plan.fetch_s + plan.swap_in_s),
        "exec_ms": plan and _ms(plan.compute_s),
        "sending_ms": _ms(estimate.send_s),
        "decoding_ms": _ms(estimate.decode_s),
        "total_ms": _ms(estimate.total_s),
    }


def _plan(plan: PrefillPlan, cached: Cached) -> str:
    """How the instance that prefills comes by the prompt's KV."""
    return "fetch" if plan.fetch else "route" if cached.tokens else "recompute"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)


class Watcher(Protocol):
    def decided(self, decision: Decision) -> None: ...

    def ended(self, decision: Decision) -> None:
        """Its outcome is known now."""
        ...


class Decisions:
    """The latest `kept` decisions.

    `counts`: tokens and predictions compared with what engines reported. `prediction_outcomes`: how many
    predictions of cached tokens came true, and why others did not.
    """

    def __init__(self, kept: int) -> None:
        self.counts: Counter[str] = Counter()
        self.prediction_outcomes: Counter[str] = Counter()
        self._watchers: list[Watcher] = []
        self._latest: deque[Decision] = deque(maxlen=kept)

    def watch(self, watcher: Watcher) -> None:
        """`watcher` is called for each decision from now on."""
        self._watchers.append(watcher)

    def add(self, decision: Decision) -> None:
        self._latest.append(decision)
        for watcher in self._watchers:
            watcher.decided(decision)

    def ended(self, decision: Decision, outcome: ReportedUsage, *, cache_lost: bool = False) -> None:
        """`cache_lost`: whether what the chosen instance had when it was chosen is gone since."""
        decision.answered(outcome)
        reported = outcome.prompt_tokens
        equal = _EQUAL if reported == decision.prompt_tokens else _DIFFERENT
        self.counts[_UNREPORTED if reported is None else equal] += 1
        if outcome.cached_tokens is not None:
            self.counts["cached_tokens_predicted"] += decision.predicted
            self.counts["cached_tokens_actual"] += outcome.cached_tokens
            result = _prediction_outcome(decision, reported, outcome.cached_tokens, cache_lost)
            self.prediction_outcomes[result] += 1
        for watcher in self._watchers:
            watcher.ended(decision)

    def last(self, count: int) -> Iterable[Decision]:
        """The latest `count`, the newest first."""
        return [decision for decision, _ in zip(reversed(self._latest), range(count), strict=False)]


def _prediction_outcome(
    decision: Decision, prompt_tokens: int | None, cached_tokens: int, cache_lost: bool
) -> str:
    """By this name it is counted."""
    if cached_tokens == decision.predicted:
        return "as_predicted"
    if cached_tokens > decision.predicted:
        return "more"
    if prompt_tokens is not None and prompt_tokens != decision.prompt_tokens:
        return "less_other_tokens"
    if cache_lost:
        return "less_cache_lost"
    return "less_in_part" if cached_tokens else "less_nothing_there"
