"""Whether instances fit together: the same tokens and the same KV on all of them, each in its own role."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from router.instances.agreement import MUST_AGREE
from router.instances.instance import Instance

logger = logging.getLogger(__name__)


class Incompatibility(NamedTuple):
    """The `value` of a field differs from that of most instances that report it, of which `other` is one.

    Where the role is wrong, `other` is None, and `other_value` is the role that the router was given.
    """

    instance: Instance
    field: str
    value: object
    other: Instance | None
    other_value: object

    def __str__(self) -> str:
        if self.other is None:
            return f"it runs as {self.value} (--disaggregation-mode), and is given as {self.other_value}"
        return f"{MUST_AGREE[self.field].name} {self.value}, where {self.other} has {self.other_value}"

    def seen_from(self, instance: Instance) -> Incompatibility:
        """The same, with `instance` (this one or the other) as the one that differs."""
        if self.other is None or instance is self.instance:
            return self
        return Incompatibility(instance, self.field, self.other_value, self.instance, self.value)


def incompatibilities(instances: Sequence[Instance]) -> list[Incompatibility]:
    """All of them, among instances that have reported of themselves."""
    reported = {
        instance: instance.server_info.compatibility
        for instance in instances
        if instance.server_info is not None
    }
    found = [
        Incompatibility(instance, "role", fields.role, None, instance.role.value)
        for instance, fields in reported.items()
        if fields.role is not None and fields.role != instance.role.value
    ]
    for name in MUST_AGREE:
        values = {
            instance: value
            for instance, fields in reported.items()
            if (value := getattr(fields, name)) is not None
        }
        found += _disagreements(name, values)
    return found


def warn(joined: Instance, instances: Sequence[Instance]) -> None:
    """Logs in one line what does not fit since this instance is there."""
    found = [each for each in incompatibilities(instances) if joined in (each.instance, each.other)]
    if found:
        words = dict.fromkeys(str(each.seen_from(joined)) for each in found)
        logger.warning("%s does not fit: %s", joined, "; ".join(words))


def by_instance(instances: Sequence[Instance]) -> dict[Instance, list[str]]:
    """The incompatibilities in words, for each instance that has any."""
    words: dict[Instance, list[str]] = {}
    for incompatibility in incompatibilities(instances):
        words.setdefault(incompatibility.instance, []).append(str(incompatibility))
    return words


def _disagreements(field: str, values: dict[Instance, object]) -> list[Incompatibility]:
    if len(set(values.values())) < 2:
        return []
    ((usual, _),) = Counter(values.values()).most_common(1)
    other = next(instance for instance, value in values.items() if value == usual)
    return [
        Incompatibility(instance, field, value, other, usual)
        for instance, value in values.items()
        if value != usual
    ]
