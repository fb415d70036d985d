"""Which instances there are, and why a request cannot be served."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from router.errors import BadRequest, NoInstance
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role

_FOR_ANY_REQUEST = (Role.DECODE, Role.COLOCATED, Role.PREFILL)


class Registry:
    """The router's instances, in the order in which they were added; they come and go.

    `candidates`: those that are not leaving. The object is replaced, never changed, when one comes or goes.
    """

    def __init__(self, instances: Iterable[Instance]) -> None:
        self.instances: list[Instance] = list(instances)
        self.candidates = self._not_leaving()

    def add(self, instance: Instance) -> None:
        self.instances.append(instance)
        self.candidates = self._not_leaving()

    def leave(self, instance: Instance) -> None:
        """It gets no new requests."""
        instance.leave()
        self.candidates = self._not_leaving()

    def remove(self, instance: Instance) -> None:
        """Forget an instance that has left."""
        self.instances.remove(instance)

    def of(self, role: Role) -> tuple[Instance, ...]:
        return self.candidates.of(role)

    def healthy(self, role: Role) -> list[Instance]:
        """Those that take requests now."""
        return self.candidates.healthy(role)

    def any_healthy(self, failed: Collection[str] = ()) -> Instance | None:
        """One for what any instance can answer, at none of the `failed` URLs if possible; prefill last."""
        healthy = [instance for role in _FOR_ANY_REQUEST for instance in self.healthy(role)]
        untried = (instance for instance in healthy if instance.url not in failed)
        return next(untried, healthy[0] if healthy else None)

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
        """The error for a request that no pair can answer, where no colocated instance can either."""
        if colocated := self.of(Role.COLOCATED):
            return NoInstance(
                f"no colocated instance can serve this: down are {_unavailable_reasons(colocated)}"
            )
        return BadRequest(
            f"{pd_unsupported_reason}: ask for it at a router that has a colocated instance too "
            "(--worker-urls)"
        )

    def _not_leaving(self) -> Candidates:
        return Candidates(instance for instance in self.instances if not instance.leaving)


def _unavailable_reasons(instances: Iterable[Instance]) -> str:
    return "; ".join(
        f"{instance.role} {instance.url} ({instance.unavailable_reason})"
        for instance in instances
        if instance.unavailable_reason
    )
