from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from router.cost.estimator import CostEstimate, CostEstimates, Fetch
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.prefix_tree.base import Cached
from router.prompt.request import RoutingRequest

_NOWHERE: Mapping[Instance, Cached] = MappingProxyType({})
Weight = tuple[float, ...]


class Route(NamedTuple):
    """Who serves a request: a prefill and a decode instance, or a colocated one alone (as `decode`).

    `cached`: what each instance is taken to have of the prompt, where that was asked. `quote`: all
    candidates' prices, of a policy that has some.
    """

    prefill: Instance | None
    decode: Instance
    cached: Mapping[Instance, Cached] = _NOWHERE
    quote: CostEstimates | None = None

    def price(self, one: Instance) -> CostEstimate | None:
        return self.quote.price(one) if self.quote is not None else None

    @property
    def first(self) -> Instance:
        """Who prefills."""
        return self.prefill or self.decode

    @property
    def fetch(self) -> Fetch | None:
        """What that one is to fetch before."""
        price = self.price(self.first)
        return price.way.fetch if price is not None and price.way is not None else None


class Policy(Protocol):
    """`needs_tokens`: whether it is worth tokenising for. `needs_prices`: whether it looks at prices."""

    needs_tokens: bool
    needs_prices: bool

    def route(self, candidates: Candidates, ask: RoutingRequest) -> Route | None:
        """Choose among the healthy ones. None: nobody can serve this.

        The caller charges the choice before anything else may be routed.
        """
        ...


Choose = Callable[[Sequence[Instance], Instance | None], Instance]
"""One of the instances. The other argument decodes for those among them that prefill only."""


def route_by(
    candidates: Candidates, ask: RoutingRequest, choose: Choose, cached: Mapping[Instance, Cached] = _NOWHERE
) -> Route | None:
    """Who decodes is chosen first; then who begins, from prefill and colocated instances together."""
    decode = [] if ask.colocated_only else candidates.healthy(Role.DECODE)
    prefill = candidates.healthy(Role.PREFILL) if decode else []
    first = [*candidates.healthy(Role.COLOCATED), *prefill]
    if not first:
        return None
    partner = choose(decode, None) if prefill else None
    winner = choose(first, partner)
    if partner is None or winner.role is Role.COLOCATED:
        return Route(None, winner, cached)
    return Route(winner, partner, cached)


def load_of(instance: Instance, partner: Instance | None) -> tuple[int, int]:
    """In tokens charged; a pair is as busy as the busier half of it."""
    own = instance.charged
    return (max(own, partner.charged) if partner and instance.role is Role.PREFILL else own), own


def least(instances: Sequence[Instance], weigh: Callable[[Instance], Weight]) -> Instance:
    """The one that weighs least, by chance among equals."""
    weights = [weigh(one) for one in instances]
    lowest = min(weights)
    return random.choice([one for one, weight in zip(instances, weights, strict=True) if weight == lowest])
