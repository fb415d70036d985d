from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from router.ask import Ask
from router.instance import Instance
from router.policies.base import Route, route_by

if TYPE_CHECKING:
    from router.registry import Registry


class AtRandom:
    """Anybody who is healthy, each as likely as the next."""

    needs_tokens = False
    needs_prices = False

    def route(self, registry: Registry, ask: Ask) -> Route | None:
        return route_by(registry, ask, _anybody)


def _anybody(instances: Sequence[Instance], _: Instance | None) -> Instance:
    return random.choice(instances)
