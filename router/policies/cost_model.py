from __future__ import annotations

import random
from collections.abc import Sequence

from router.cost.estimator import CostEstimator
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.policies.base import Route, least_loaded, route_by
from router.prefix_tree import PromptTree
from router.prompt.request import MAX_GUESSED_TOKENS, RoutingRequest

# Predictions within this share of the time until the answer begins tie, and load decides among them.
_TIE_SHARE = 0.02


class CostModelPolicy:
    """The minimum of queue + fetch + exec over routing to the KV, fetching it, and recomputing it.

    As in arXiv 2406.17565, section 6. Without tokens a prompt's length is guessed, and what an instance has
    of it goes by text, which nothing can be fetched by.
    """

    needs_tokens = True
    needs_estimates = True

    def __init__(self, tree: PromptTree, estimator: CostEstimator, rng: random.Random | None = None) -> None:
        self._tree = tree
        self._estimator = estimator
        self._rng = rng or random.Random()

    def route(self, candidates: Candidates, request: RoutingRequest) -> Route | None:
        cached, prompt_tokens = {}, request.prompt_tokens
        if request.tokens is None:
            prompt_tokens = min(prompt_tokens, MAX_GUESSED_TOKENS)
        if (prefix := request.prefix) is not None:
            cached = self._tree.match(*prefix)
        estimates = self._estimator.estimates(
            prompt_tokens, request.new_tokens, cached, may_fetch=request.tokens is not None
        )

        def cheapest(instances: Sequence[Instance], partner: Instance | None) -> Instance:
            if instances[0].role is Role.DECODE:
                totals = estimates.decode_totals(instances)
            else:
                totals = estimates.prefill_totals(instances, partner)
            best = estimates.of(instances[totals.index(min(totals))])
            assert best is not None
            bound = best.total_s + _TIE_SHARE * best.until_prefilled_s
            ties = [instance for instance, total_s in zip(instances, totals, strict=True) if total_s <= bound]
            return least_loaded(ties, partner, self._rng)

        route = route_by(candidates, request, cheapest, cached)
        return None if route is None else route._replace(estimates=estimates)
