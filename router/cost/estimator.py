"""What serving a prompt costs now, on each instance: queue, fetch, computing, and what comes after."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

from router.cost.estimate import CostEstimate, Fetch, PrefillPlan
from router.cost.residuals import Residuals
from router.cost.speed import Speed
from router.cost.speeds import Speeds
from router.instances.instance import Instance, Role, prefill_queues
from router.prefix_tree.base import NOTHING, Cached

# Of the instances that have more of the prompt, the sources considered: the holders of the largest amounts.
_MAX_AMOUNTS = 3
_MIN_DEADLINE_MS, _MAX_DEADLINE_MS = 1.0, 60_000.0

_TOTAL_S = attrgetter("total_s")
_PREFILL = Role.PREFILL


class CostEstimator:
    """Estimates by the operators' times, corrected by what was observed of each instance.

    `clock`: seconds, monotonic, the same as the instances'. `rng` draws among equal sources of a fetch.
    """

    def __init__(
        self,
        speeds: Speeds,
        residuals: Residuals | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.speeds = speeds
        self.residuals = residuals or Residuals()
        self.clock = clock
        self.rng = rng or random.Random()

    def estimates(
        self,
        prompt_tokens: int,
        new_tokens: int,
        cached: Mapping[Instance, Cached],
        *,
        may_fetch: bool = True,
    ) -> CostEstimates:
        """For one request. `new_tokens`: of the answer. `cached`: what each instance has of the prompt."""
        return CostEstimates(self, prompt_tokens, new_tokens, cached, may_fetch)

    def observe(self, instance: Instance, estimate: CostEstimate, seconds: float) -> None:
        """A prefill with this estimate, alone on its instance, took `seconds`. A fetch is not counted."""
        plan = estimate.plan
        if plan is not None and plan.fetch is None:
            computed_s = seconds - plan.swap_in_s - estimate.send_s
            self.residuals.observe(instance.url, plan.uncorrected_s, computed_s)

    def forget(self, instance: Instance) -> None:
        """It has left for good."""
        self.residuals.forget(instance.url)
        self.speeds.forget(instance)


class _Columns:
    """The estimates of some instances, field by field. Those of decode instances have no plans and queues."""

    __slots__ = ("decode_s", "instances", "plans", "queue_s", "send_s", "total_s")

    def __init__(self, instances: Sequence[Instance], queue_s: list[float]) -> None:
        self.instances = instances
        self.queue_s = queue_s
        self.plans: list[PrefillPlan] = []
        self.send_s: list[float] = []
        self.decode_s: list[float] = []
        self.total_s: list[float] = []

    def estimate(self, at: int) -> CostEstimate:
        plan, queue_s = (self.plans[at], self.queue_s[at]) if self.plans else (None, 0.0)
        return CostEstimate(plan, queue_s, self.send_s[at], self.decode_s[at], self.total_s[at])


class CostEstimates:
    """One decision's estimates. Instances of one speed that have as much of the prompt share their plan.

    A decision has microseconds for many instances: columns of figures are kept, and an estimate is made of
    them when it is asked for.
    """

    def __init__(
        self,
        estimator: CostEstimator,
        prompt_tokens: int,
        new_tokens: int,
        cached: Mapping[Instance, Cached],
        may_fetch: bool = True,
    ) -> None:
        self._speed_of = estimator.speeds.of
        self._speeds = estimator.speeds.by_instance
        self._factors = estimator.residuals.factors
        self._draw = estimator.rng.random
        self._prompt_tokens = prompt_tokens
        self._new_tokens = new_tokens
        self._cached = cached
        self._now = estimator.clock()
        self._columns: list[_Columns] = []
        self._amounts: list[int] | None = None if may_fetch else []
        self._sources: dict[tuple[int, int], tuple[Instance, float] | None] = {}

    def of(self, instance: Instance) -> CostEstimate | None:
        """None: it was no candidate."""
        for columns in self._columns:
            if instance in columns.instances:
                return columns.estimate(columns.instances.index(instance))
        return None

    def decode_totals(self, instances: Sequence[Instance]) -> list[float]:
        """Estimates decode instances: what P sends there, and the steps. Returns the totals, seconds."""
        cached, prompt_tokens, new_tokens = self._cached, self._prompt_tokens, self._new_tokens
        speeds, speed_of = self._speeds, self._speed_of
        send_s_of: dict[tuple[Speed, int], float] = {}
        columns = _Columns(instances, [])
        for instance in instances:
            speed = speeds.get(instance) or speed_of(instance)
            has = cached.get(instance, NOTHING).tokens
            send_s = send_s_of.get((speed, has))
            if send_s is None:
                send_s = send_s_of[speed, has] = speed.send(prompt_tokens - has)
            decode_s = new_tokens * speed.step(instance.in_flight + 1, instance.charged + prompt_tokens)
            columns.send_s.append(send_s)
            columns.decode_s.append(decode_s)
            columns.total_s.append(send_s + decode_s)
        self._columns.append(columns)
        return columns.total_s

    def prefill_totals(self, instances: Sequence[Instance], partner: Instance | None) -> list[float]:
        """Estimates the cheapest plan of colocated instances, and of prefill ones whose `partner` decodes.

        Returns the totals, seconds.
        """
        cached, prompt_tokens, new_tokens = self._cached, self._prompt_tokens, self._new_tokens
        speeds, speed_of, factors = self._speeds, self._speed_of, self._factors
        handover = self.of(partner) if partner else None
        partner_send_s, partner_decode_s = (handover.send_s, handover.decode_s) if handover else (0.0, 0.0)
        cheapest_of: dict[tuple[Speed, Cached, float], tuple[float, PrefillPlan]] = {}
        columns = _Columns(instances, prefill_queues(instances, self._now))
        plans, sends, decodes, totals = columns.plans, columns.send_s, columns.decode_s, columns.total_s
        for instance, queue_s in zip(instances, columns.queue_s, strict=True):
            # Quicker than `get`: nearly all of them are known.
            try:
                speed = speeds[instance]
            except KeyError:
                speed = speed_of(instance)
            key = speed, cached.get(instance, NOTHING), factors.get(instance.url, 1.0)
            cheapest = cheapest_of.get(key)
            if cheapest is None:
                plan = min(self._plans(*key), key=_TOTAL_S)
                cheapest = cheapest_of[key] = plan.total_s, plan
            plan_s, plan = cheapest
            if instance.role is _PREFILL:
                send_s, decode_s = partner_send_s, partner_decode_s
            else:
                send_s = 0.0
                decode_s = new_tokens * speed.step(instance.in_flight + 1, instance.charged + prompt_tokens)
            plans.append(plan)
            sends.append(send_s)
            decodes.append(decode_s)
            totals.append(queue_s + plan_s + send_s + decode_s)
        self._columns.append(columns)
        return totals

    def _plans(self, speed: Speed, has: Cached, factor: float) -> Iterator[PrefillPlan]:
        """To compute what the instance lacks; and to fetch some of it first, from each source with more."""
        shared_s = speed.min_forward_s
        alone_s = speed.prefill(has.tokens, max(1, self._prompt_tokens - has.tokens))
        swap_in_s = speed.swap_in(has.tokens - has.hbm)
        yield PrefillPlan(0.0, swap_in_s, factor * alone_s, factor * (alone_s - shared_s), alone_s)
        for source, tokens, waiting_s in self._sources_above(has.tokens, speed.fetched_page):
            rest_s = speed.prefill(tokens, max(1, self._prompt_tokens - tokens))
            fetch_s = speed.fetch(tokens - has.tokens)
            swap_in_s = speed.swap_in(tokens - has.hbm)
            saved_ms = 1e3 * factor * (alone_s - rest_s)
            fetch = Fetch(source, tokens, min(max(_MIN_DEADLINE_MS, saved_ms), _MAX_DEADLINE_MS))
            marginal_s = factor * (rest_s - shared_s)
            yield PrefillPlan(
                waiting_s + fetch_s, swap_in_s, factor * rest_s, marginal_s, rest_s, fetch, fetch_s
            )

    def _sources_above(self, tokens: int, page: int) -> Iterator[tuple[Instance, int, float]]:
        """A source for each larger amount of the prompt: how many tokens, and seconds until it can send."""
        if not page:
            return
        if self._amounts is None:
            amounts = {has.tokens for has in self._cached.values()}
            self._amounts = sorted(amounts, reverse=True)[:_MAX_AMOUNTS]
        for amount in self._amounts:
            if amount <= tokens:
                return
            if (amount, page) not in self._sources:
                self._sources[amount, page] = self._idlest_source(amount, page)
            if (found := self._sources[amount, page]) is not None:
                yield found[0], amount, found[1]

    def _idlest_source(self, tokens: int, page: int) -> tuple[Instance, float] | None:
        speeds, speed_of = self._speeds, self._speed_of
        sources = []
        for instance, has in self._cached.items():
            if has.tokens == tokens:
                speed = speeds.get(instance) or speed_of(instance)
                if speed.fetched_page == page:
                    sources.append((_source_waiting_s(instance, speed), self._draw(), instance))
        if not sources:
            return None
        waiting_s, _, source = min(sources)
        return source, waiting_s


def _source_waiting_s(source: Instance, speed: Speed) -> float:
    """Until it has sent what others fetch already, and its scheduler's next step looks into HBM.

    The forward that it is in takes as long as its requests do on average.
    """
    forward_s = min(source.charged_seconds / max(1, source.in_flight), speed.max_forward_s)
    step_s = speed.step(source.in_flight, source.charged) if source.in_flight else 0.0
    return source.sending_seconds + max(forward_s, step_s)
