from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from router.instance import Instance

if TYPE_CHECKING:
    from router.registry import Registry


class Route(NamedTuple):
    """Who serves a request: a prefill and a decode instance, or a colocated one alone (as `decode`)."""

    prefill: Instance | None
    decode: Instance


class Policy(Protocol):
    def route(self, registry: Registry, *, colocated_only: bool = False) -> Route | None:
        """Choose among healthy instances, and charge the choice. None: nobody can serve this."""
        ...
