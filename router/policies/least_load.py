from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.ask import Ask
from router.instance import Instance
from router.policies.base import Route, least, load_of, route_by

if TYPE_CHECKING:
    from router.registry import Registry


class LeastLoad:
    """Whoever has the fewest tokens charged."""

    needs_tokens = False
    needs_prices = False

    def route(self, registry: Registry, ask: Ask) -> Route | None:
        return route_by(registry, ask, lightest)


def lightest(instances: Sequence[Instance], partner: Instance | None) -> Instance:
    return least(instances, lambda one: load_of(one, partner))
