from __future__ import annotations

from collections.abc import Sequence

from router.instances.candidates import Candidates
from router.instances.instance import Instance
from router.policies.base import Route, least, load_of, route_by
from router.policies.least_load import LeastLoad
from router.prefix_tree import NOTHING, PromptTree
from router.prompt.request import RoutingRequest


class LongestPrefix:
    """Whoever has most of the prompt, as in the paper; by load among equals, and without tokens."""

    needs_tokens = True
    needs_prices = False

    def __init__(self, tree: PromptTree) -> None:
        self._tree = tree
        self._without = LeastLoad()

    def route(self, candidates: Candidates, ask: RoutingRequest) -> Route | None:
        if ask.tokens is None:
            return self._without.route(candidates, ask)
        cached = self._tree.match(ask.tokens, ask.namespace)

        def longest(instances: Sequence[Instance], partner: Instance | None) -> Instance:
            most = max(cached.get(one, NOTHING).tokens for one in instances)
            best = [one for one in instances if cached.get(one, NOTHING).tokens == most]
            return least(best, lambda one: load_of(one, partner))

        return route_by(candidates, ask, longest, cached)
