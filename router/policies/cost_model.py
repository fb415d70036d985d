from __future__ import annotations

from collections.abc import Sequence

from router.cost.estimator import CostEstimator
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.policies.base import Route, least, load_of, route_by
from router.prefix_tree import PromptTree
from router.prompt.request import RoutingRequest

# Predictions are no better: within this share of the time until the answer begins, load decides.
_CLOSE = 0.02
# Where length is guessed by bytes: they may be those of a picture.
_MOST_GUESSED = 32_768


class CostModelPolicy:
    """The least of queue + fetch + exec over route to the KV, fetch it, recompute it: paper.md A9.

    Without tokens, a prompt counts for a new one of the length that it seems to have.
    """

    needs_tokens = True
    needs_prices = True

    def __init__(self, tree: PromptTree, prices: CostEstimator) -> None:
        self._tree = tree
        self._prices = prices

    def route(self, candidates: Candidates, ask: RoutingRequest) -> Route | None:
        cached = {} if ask.tokens is None else self._tree.match(ask.tokens, ask.namespace)
        prompt = min(ask.prompt_tokens, _MOST_GUESSED) if ask.tokens is None else ask.prompt_tokens
        quote = self._prices.quote(prompt, ask.new_tokens, cached)

        def cheapest(instances: Sequence[Instance], partner: Instance | None) -> Instance:
            if instances[0].role is Role.DECODE:
                totals = quote.decoders(instances)
            else:
                totals = quote.prefills(instances, partner)
            best = quote.price(instances[totals.index(min(totals))])
            assert best is not None
            bound = best.total + _CLOSE * best.prefilled
            close = [one for one, total in zip(instances, totals, strict=True) if total <= bound]
            return least(close, lambda one: load_of(one, partner))

        route = route_by(candidates, ask, cheapest, cached)
        if route is None:
            return None
        return route._replace(quote=quote)
