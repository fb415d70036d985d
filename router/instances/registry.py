"""Who serves: the instances by role and condition."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from router.errors import BadRequest, NoInstance
from router.instances.instance import Instance, Role

_ANYONE = (Role.DECODE, Role.COLOCATED, Role.PREFILL)


class Registry:
    """The instances that the router was told about, in the order given; they come and go.

    Those that are leaving are among the `instances`, and in no role.
    """

    def __init__(self, instances: Iterable[Instance]) -> None:
        self.instances: list[Instance] = []
        self._of: dict[Role, list[Instance]] = {role: [] for role in Role}
        for instance in instances:
            self.add(instance)

    def add(self, instance: Instance) -> None:
        self.instances.append(instance)
        if not instance.leaving:
            self._of[instance.role].append(instance)

    def leave(self, instance: Instance) -> None:
        """It gets no new requests."""
        self._of[instance.role].remove(instance)
        instance.leave()

    def remove(self, instance: Instance) -> None:
        """Forget one that has left."""
        self.instances.remove(instance)

    def without(self, urls: Collection[str]) -> Registry:
        return Registry(one for one in self.instances if one.url not in urls)

    def of(self, role: Role) -> list[Instance]:
        return list(self._of[role])

    def healthy(self, role: Role) -> list[Instance]:
        """Those that take requests now."""
        return [one for one in self._of[role] if one.takes_requests]

    def any_healthy(self, failed: Collection[str] = ()) -> Instance | None:
        """One for what any instance can answer, at none of the `failed` URLs if possible; prefill last."""
        healthy = [one for role in _ANYONE for one in self.healthy(role)]
        return next((one for one in healthy if one.url not in failed), healthy[0] if healthy else None)

    def unservable(self) -> str | None:
        """Why no request can be served just now, or None."""
        if self.healthy(Role.COLOCATED) or (self.healthy(Role.PREFILL) and self.healthy(Role.DECODE)):
            return None
        if reasons := _unavailable_reasons(self.instances):
            return f"no instance can serve this: down are {reasons}"
        lacking = Role.DECODE if self.of(Role.PREFILL) else Role.PREFILL
        missing = f"there is no {lacking} instance" if self.instances else "there are no instances"
        return f"no instance can serve this: {missing}; POST /workers adds one"

    def no_colocated(self, pd_unsupported_reason: str) -> BadRequest | NoInstance:
        """What a client hears who asks for what no pair can answer, for want of a colocated instance."""
        if colocated := self.of(Role.COLOCATED):
            return NoInstance(
                f"no colocated instance can serve this: down are {_unavailable_reasons(colocated)}"
            )
        return BadRequest(
            f"{pd_unsupported_reason}: ask for it at a router that has a colocated instance too "
            "(--worker-urls)"
        )


def _unavailable_reasons(instances: Iterable[Instance]) -> str:
    return "; ".join(
        f"{one.role} {one.url} ({one.unavailable_reason})" for one in instances if one.unavailable_reason
    )
