"""The instances that one decision chooses among."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from router.instances.instance import Instance, Role


class Candidates:
    """Some instances by role, in the order given. Immutable; `healthy` asks each instance anew."""

    __slots__ = ("_by_role", "instances")

    def __init__(self, instances: Iterable[Instance]) -> None:
        self.instances = tuple(instances)
        self._by_role = {
            role: tuple(instance for instance in self.instances if instance.role is role) for role in Role
        }

    def of(self, role: Role) -> tuple[Instance, ...]:
        return self._by_role[role]

    def healthy(self, role: Role) -> list[Instance]:
        """Those that take requests now."""
        # Each decision asks this of every instance: a method for it would cost some 3 us of 100.
        return [
            instance
            for instance in self._by_role[role]
            if instance.healthy and (instance.breaker.closed or instance.breaker.lets_through())
        ]

    def only(self, wanted: Callable[[Instance], bool]) -> Candidates:
        return Candidates(instance for instance in self.instances if wanted(instance))

    def without(self, urls: Collection[str]) -> Candidates:
        return self.only(lambda instance: instance.url not in urls)
