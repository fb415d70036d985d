from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from router.metrics.distribution import PREFIX, Distribution
from router.scheduling.decisions import Decision

_DECISION_SECONDS = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.05)
_TOKENS_OFF = (-32768, -8192, -2048, -512, -128, -16, -1, 0, 15, 127, 511, 2047, 8191, 32767)
_SECONDS_OFF = (-10, -3, -1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
_TOKENS = {
    "prompt_tokens": "Tokens of the prompts whose answers report how many were cached.",
    "cached_tokens_available": "Of these, those that the instance with the longest prefix was taken to have.",
    "cached_tokens_chosen": "Of these, those that the chosen instance was taken to have.",
    "cached_tokens_achieved": "Of these, those that were cached, as the answers report.",
}


class Predictions:
    """What was decided, how fast, and how it turned out."""

    def __init__(self) -> None:
        self._chosen: Counter[tuple[str, str]] = Counter()
        self._plans: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._decision_seconds = Distribution(
            "decision_seconds", "How long the policy took to choose.", _DECISION_SECONDS
        )
        self._tokens_off = Distribution(
            "cached_tokens_error", "Cached tokens of a prompt: predicted minus actual.", _TOKENS_OFF
        )
        self._seconds_off = Distribution(
            "prefill_seconds_error", "Seconds of a prefill: predicted minus actual.", _SECONDS_OFF
        )

    def decided(self, decision: Decision) -> None:
        self._decision_seconds.observe(decision.decision_s)
        for instance in decision.route[:2]:
            if instance is not None:
                self._chosen[instance.url, instance.role.value] += 1
        if (plan := decision.plan) is not None:
            self._plans[plan] += 1

    def ended(self, decision: Decision) -> None:
        """Its outcome is known now."""
        estimate = decision.route.estimate(decision.route.first)
        if estimate is not None and decision.prefill_s is not None:
            self._seconds_off.observe(estimate.until_prefilled_s - decision.prefill_s)
        outcome = decision.outcome
        if outcome is None or outcome.cached_tokens is None:
            return
        available = max((has.tokens for has in decision.route.cached.values()), default=0)
        self._tokens["prompt_tokens"] += outcome.prompt_tokens or decision.prompt_tokens
        self._tokens["cached_tokens_available"] += available
        self._tokens["cached_tokens_chosen"] += decision.predicted
        self._tokens["cached_tokens_achieved"] += outcome.cached_tokens
        self._tokens_off.observe(decision.predicted - outcome.cached_tokens)

    def collect(self) -> Iterator[Metric]:
        for distribution in (self._decision_seconds, self._tokens_off, self._seconds_off):
            yield distribution.collect()
        for name, about in _TOKENS.items():
            yield CounterMetricFamily(PREFIX + name, about, self._tokens[name])
        chosen = CounterMetricFamily(
            PREFIX + "chosen", "Times an instance was chosen.", labels=("instance", "role")
        )
        for labels, count in self._chosen.items():
            chosen.add_metric(labels, count)
        yield chosen
        about = "Decisions of cost_model: route to the prompt's KV, fetch it, or recompute it."
        plans = CounterMetricFamily(PREFIX + "prefill_plans", about, labels=("plan",))
        for plan in ("route", "fetch", "recompute"):
            plans.add_metric((plan,), self._plans[plan])
        yield plans
