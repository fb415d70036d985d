"""The protocol of policies, and what they share."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from router.cost.estimate import CostEstimate, Fetch
from router.cost.estimator import CostEstimates
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.prefix_tree.base import Cached
from router.prompt.request import RoutingRequest

_NOWHERE: Mapping[Instance, Cached] = MappingProxyType({})
Weight = tuple[float, ...]


class Route(NamedTuple):
    """The instances that serve a request: a prefill and a decode instance, or a colocated one as `decode`.

    `cached`: what each instance is taken to have of the prompt, where the policy has asked. `estimates`: of
    all candidates, from a policy that needs them.
    """

    prefill: Instance | None
    decode: Instance
    cached: Mapping[Instance, Cached] = _NOWHERE
    estimates: CostEstimates | None = None

    def estimate(self, instance: Instance) -> CostEstimate | None:
        return self.estimates.of(instance) if self.estimates is not None else None

    @property
    def first(self) -> Instance:
        """The instance that prefills."""
        return self.prefill or self.decode

    @property
    def fetch(self) -> Fetch | None:
        """What that instance is to fetch before it prefills."""
        estimate = self.estimate(self.first)
        return estimate.plan.fetch if estimate is not None and estimate.plan is not None else None


class Policy(Protocol):
    """`needs_tokens`: whether prompts are tokenised for it. `needs_estimates`: whether it looks at costs."""

    needs_tokens: bool
    needs_estimates: bool

    def route(self, candidates: Candidates, request: RoutingRequest) -> Route | None:
        """Chooses among the healthy candidates. None: they cannot serve this.

        The caller charges the choice before anything else may be routed.
        """
        ...


Choose = Callable[[Sequence[Instance], Instance | None], Instance]
"""Chooses one of the instances. The other argument decodes for those among them that prefill only."""


def route_by(
    candidates: Candidates,
    request: RoutingRequest,
    choose: Choose,
    cached: Mapping[Instance, Cached] = _NOWHERE,
) -> Route | None:
    """Chooses who decodes first; then who prefills, from prefill and colocated instances together."""
    decode = [] if request.colocated_only else candidates.healthy(Role.DECODE)
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


def least_loaded(instances: Sequence[Instance], partner: Instance | None, rng: random.Random) -> Instance:
    """The one with the lowest load; drawn among equals."""
    loads = [load_of(instance, partner) for instance in instances]
    lowest = min(loads)
    return rng.choice([instance for instance, load in zip(instances, loads, strict=True) if load == lowest])
