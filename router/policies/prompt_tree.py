from __future__ import annotations

import random
from collections.abc import Sequence

from router.instances.candidates import Candidates
from router.instances.instance import Instance
from router.policies.base import Route, least_loaded, route_by
from router.policies.least_load import LeastLoad
from router.prefix_tree import NOTHING, PromptTree
from router.prompt.request import RoutingRequest


class LongestPrefix:
    """The instance that has most of the prompt, as in the paper; by load among equals.

    A prompt that has no tokens goes by its text where that is known, else by load.
    """

    needs_tokens = True
    needs_estimates = False

    def __init__(self, tree: PromptTree, rng: random.Random | None = None) -> None:
        self._tree = tree
        self._rng = rng or random.Random()
        self._without_prefix = LeastLoad(self._rng)

    def route(self, candidates: Candidates, request: RoutingRequest) -> Route | None:
        if (prefix := request.prefix) is None:
            return self._without_prefix.route(candidates, request)
        cached = self._tree.match(*prefix)

        def longest(instances: Sequence[Instance], partner: Instance | None) -> Instance:
            lengths = [cached.get(instance, NOTHING).tokens for instance in instances]
            best = max(lengths)
            ties = [instance for instance, length in zip(instances, lengths, strict=True) if length == best]
            return least_loaded(ties, partner, self._rng)

        return route_by(candidates, request, longest, cached)
