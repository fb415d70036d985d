"""What each way to serve a prompt costs now, on each instance: queue + fetch + exec, and what comes after."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from router.cost.residuals import Residuals
from router.cost.speed import Speed
from router.cost.speeds import Speeds
from router.instances.instance import Instance, Role, prefill_queues
from router.prefix_tree.base import NOTHING, Cached

# Of those that have more than an instance, as many amounts are looked at, the largest first.
_MOST_SOURCES = 3
_LEAST_MS, _MOST_MS = 1.0, 60_000.0


class Fetch(NamedTuple):
    """`source` has the prompt's first `tokens`. To wait for them longer than to compute them is in vain."""

    source: Instance
    tokens: int
    deadline_ms: float


class PrefillPlan(NamedTuple):
    """How an instance comes by a prompt's KV, in seconds: to fetch into DRAM, to copy from there to HBM, and
    to compute the rest. `marginal_compute_s`: what computing adds to a forward that others are in. `model`:
    computing again, not corrected for the instance. `sending`: of fetching, what the source is busy with.
    """

    fetch_s: float
    swap_in_s: float
    compute_s: float
    marginal_compute_s: float
    model: float
    fetch: Fetch | None = None
    sending: float = 0.0

    @property
    def seconds(self) -> float:
        return self.fetch_s + self.swap_in_s + self.compute_s


class CostEstimate(NamedTuple):
    """Of one instance, in seconds. `sending`: from P to D, what D lacks of the prompt; `decoding`: the steps
    of the answer. Of a decode instance these two are all, and `way` is None.
    """

    way: PrefillPlan | None
    queue: float
    sending: float
    decoding: float
    total: float

    @property
    def work(self) -> float:
        """So long the instance is busy with it: what waits together is prefilled in one forward."""
        way = self.way
        return (
            0.0 if way is None else way.swap_in_s + (way.marginal_compute_s if self.queue else way.compute_s)
        )

    @property
    def prefilled(self) -> float:
        """From now until prefill is over, and D has the KV."""
        return self.total - self.decoding


class _Columns:
    """Prices by their fields. Those of decode instances have no ways and queues."""

    __slots__ = ("decoding", "instances", "queues", "sending", "totals", "ways")

    def __init__(self, instances: Sequence[Instance]) -> None:
        self.instances = instances
        self.ways: list[PrefillPlan] = []
        self.queues: list[float] = []
        self.sending: list[float] = []
        self.decoding: list[float] = []
        self.totals: list[float] = []

    def price(self, at: int) -> CostEstimate:
        way, queue = (self.ways[at], self.queues[at]) if self.ways else (None, 0.0)
        return CostEstimate(way, queue, self.sending[at], self.decoding[at], self.totals[at])


_SECONDS = attrgetter("seconds")
_PREFILL = Role.PREFILL


class CostEstimator:
    """The operators' prices, corrected by what was observed of each instance."""

    def __init__(self, speeds: Speeds, residuals: Residuals | None = None) -> None:
        self.speeds = speeds
        self.residuals = residuals or Residuals()

    def quote(self, prompt: int, new: int, cached: Mapping[Instance, Cached]) -> CostEstimates:
        """For `prompt` tokens and an answer of `new`. `cached`: what each instance has of the prompt."""
        return CostEstimates(self, prompt, new, cached)

    def observe(self, instance: Instance, price: CostEstimate, seconds: float) -> None:
        """A prefill at this price, with no other beside it, took so long. With a fetch that says nothing."""
        way = price.way
        if way is not None and way.fetch is None:
            self.residuals.observe(instance.url, way.model, seconds - way.swap_in_s - price.sending)

    def forget(self, instance: Instance) -> None:
        """It has left for good."""
        self.residuals.forget(instance.url)
        self.speeds.forget(instance)


class CostEstimates:
    """One decision's prices. Instances of one speed that have as much of the prompt share their way.

    There are microseconds for many instances: until a price is asked for, columns of figures are all there
    is.
    """

    def __init__(
        self, prices: CostEstimator, prompt: int, new: int, cached: Mapping[Instance, Cached]
    ) -> None:
        self._speed_of = prices.speeds.of
        self._speeds = prices.speeds.by_instance
        self._factors = prices.residuals.factors
        self._prompt = prompt
        self._new = new
        self._cached = cached
        self._now = time.monotonic()
        self._columns: list[_Columns] = []
        self._amounts: list[int] | None = None
        self._sources: dict[tuple[int, int], tuple[Instance, float] | None] = {}

    def price(self, one: Instance) -> CostEstimate | None:
        """None: it was no candidate."""
        for columns in self._columns:
            if one in columns.instances:
                return columns.price(columns.instances.index(one))
        return None

    def decoders(self, instances: Sequence[Instance]) -> list[float]:
        """Prices decode instances: what P has to send there, and the steps. Returns the totals."""
        cached, prompt, new = self._cached, self._prompt, self._new
        speeds, speed_of = self._speeds, self._speed_of
        sends: dict[tuple[Speed, int], float] = {}
        columns = _Columns(instances)
        for one in instances:
            speed, has = speeds.get(one) or speed_of(one), cached.get(one, NOTHING).tokens
            send = sends.get((speed, has))
            if send is None:
                send = sends[speed, has] = speed.send(prompt - has)
            steps = new * speed.step(one.in_flight + 1, one.charged + prompt)
            columns.sending.append(send)
            columns.decoding.append(steps)
            columns.totals.append(send + steps)
        self._columns.append(columns)
        return columns.totals

    def prefills(self, instances: Sequence[Instance], partner: Instance | None) -> list[float]:
        """Prices the cheapest way of colocated instances, and of prefill ones, for which `partner` decodes.

        Returns the totals.
        """
        cached, prompt, new = self._cached, self._prompt, self._new
        speeds, speed_of = self._speeds, self._speed_of
        handover = self.price(partner) if partner else None
        send, steps = (handover.sending, handover.decoding) if handover else (0.0, 0.0)
        factors, best = self._factors, dict[tuple[Speed, Cached, float], tuple[float, PrefillPlan]]()
        columns = _Columns(instances)
        columns.queues = prefill_queues(instances, self._now)
        ways, sends, decodes, totals = columns.ways, columns.sending, columns.decoding, columns.totals
        for one, queue in zip(instances, columns.queues, strict=True):
            # Quicker than `get`: nearly all of them are known.
            try:
                speed = speeds[one]
            except KeyError:
                speed = speed_of(one)
            has = cached.get(one, NOTHING)
            key = speed, has, factors.get(one.url, 1.0)
            cheapest = best.get(key)
            if cheapest is None:
                way = min(self._ways_of(*key), key=_SECONDS)
                cheapest = best[key] = way.seconds, way
            seconds, way = cheapest
            if one.role is _PREFILL:
                sending, decoding = send, steps
            else:
                sending, decoding = 0.0, new * speed.step(one.in_flight + 1, one.charged + prompt)
            ways.append(way)
            sends.append(sending)
            decodes.append(decoding)
            totals.append(queue + seconds + sending + decoding)
        self._columns.append(columns)
        return columns.totals

    def _ways_of(self, speed: Speed, has: Cached, factor: float) -> Iterator[PrefillPlan]:
        alone, least = speed.prefill(has.tokens, max(1, self._prompt - has.tokens)), speed.least_s
        swap_in_s = speed.swap_in(has.tokens - has.hbm)
        yield PrefillPlan(0.0, swap_in_s, factor * alone, factor * (alone - least), alone)
        for source, tokens, waiting in self._sources_above(has.tokens, speed.fetched_page):
            rest = speed.prefill(tokens, max(1, self._prompt - tokens))
            sending = speed.fetch(tokens - has.tokens)
            swap_in_s = speed.swap_in(tokens - has.hbm)
            fetch = Fetch(source, tokens, min(max(_LEAST_MS, 1e3 * factor * (alone - rest)), _MOST_MS))
            marginal_compute_s = factor * (rest - least)
            yield PrefillPlan(
                waiting + sending, swap_in_s, factor * rest, marginal_compute_s, rest, fetch, sending
            )

    def _sources_above(self, least: int, page: int) -> Iterator[tuple[Instance, int, float]]:
        """Who has more than `least` tokens, how many, and seconds until it begins to send."""
        if not page:
            return
        if self._amounts is None:
            amounts = {has.tokens for has in self._cached.values()}
            self._amounts = sorted(amounts, reverse=True)[:_MOST_SOURCES]
        for tokens in self._amounts:
            if tokens <= least:
                return
            if (tokens, page) not in self._sources:
                self._sources[tokens, page] = self._idlest(tokens, page)
            if (found := self._sources[tokens, page]) is not None:
                yield found[0], tokens, found[1]

    def _idlest(self, tokens: int, page: int) -> tuple[Instance, float] | None:
        holders = [(one, self._speed_of(one)) for one, has in self._cached.items() if has.tokens == tokens]
        ready = [
            (_waiting(one, speed), random.random(), one)
            for one, speed in holders
            if speed.fetched_page == page
        ]
        if not ready:
            return None
        waiting, _, source = min(ready)
        return source, waiting


def _waiting(source: Instance, speed: Speed) -> float:
    """Seconds for what it sends to others already, and for its scheduler's next step: that sees what HBM has.

    The forward that it is in takes as long as its requests do on average.
    """
    forward = min(source.charged_seconds / max(1, source.in_flight), speed.forward_s)
    step = speed.step(source.in_flight, source.charged) if source.in_flight else 0.0
    return source.sending_seconds + max(forward, step)
