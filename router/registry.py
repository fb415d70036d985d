"""Who serves: the instances by role and condition."""

from __future__ import annotations

from collections.abc import Iterable

from router.config import RouterConfig
from router.errors import BadRequest, NoInstance
from router.instance import Instance, Role


class Registry:
    """The instances that the router was told about, in the order given."""

    def __init__(self, instances: Iterable[Instance]) -> None:
        self.instances = tuple(instances)

    @classmethod
    def from_config(cls, config: RouterConfig) -> Registry:
        return cls(
            [
                *(Instance(spec.url, Role.PREFILL, spec.bootstrap_port) for spec in config.prefill),
                *(Instance(url, Role.DECODE) for url in config.decode),
                *(Instance(url, Role.COLOCATED) for url in config.colocated),
            ]
        )

    def of(self, role: Role) -> list[Instance]:
        return [instance for instance in self.instances if instance.role is role]

    def healthy(self, role: Role) -> list[Instance]:
        return [instance for instance in self.of(role) if instance.healthy]

    def any_healthy(self) -> Instance | None:
        """Somebody who can answer what any instance can; prefill instances are asked last."""
        for role in (Role.DECODE, Role.COLOCATED, Role.PREFILL):
            if healthy := self.healthy(role):
                return healthy[0]
        return None

    def unservable(self) -> str | None:
        """Why no request can be served just now, or None."""
        if self.healthy(Role.COLOCATED) or (self.healthy(Role.PREFILL) and self.healthy(Role.DECODE)):
            return None
        return f"no instance can serve this: down are {_down(self.instances)}"

    def no_colocated(self, unpairable: str) -> BadRequest | NoInstance:
        """What a client hears who asks for what no pair can answer, for want of a colocated instance."""
        if colocated := self.of(Role.COLOCATED):
            return NoInstance(f"no colocated instance can serve this: down are {_down(colocated)}")
        return BadRequest(
            f"{unpairable}: ask for it at a router that has a colocated instance too (--worker-urls)"
        )


def _down(instances: Iterable[Instance]) -> str:
    return "; ".join(f"{one.role} {one.url} ({one.trouble})" for one in instances if not one.healthy)
