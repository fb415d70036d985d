"""Whether instances fit together: the same tokens and the same KV on all of them, each in its own place."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from router.instances.agreement import MUST_AGREE
from router.instances.instance import Instance

logger = logging.getLogger(__name__)


class Incompatibility(NamedTuple):
    """`other`: an instance that has the value that most of those have who tell it; None for a wrong place."""

    instance: Instance
    field: str
    value: object
    other: Instance | None
    other_value: object

    def __str__(self) -> str:
        if self.other is None:
            return f"it runs as {self.value} (--disaggregation-mode), and is given as {self.other_value}"
        return f"{MUST_AGREE[self.field].name} {self.value}, where {self.other} has {self.other_value}"


def incompatibilities(instances: Sequence[Instance]) -> list[Incompatibility]:
    """All of them, those of the instances that are up."""
    fits = {one: one.server_info.compatibility for one in instances if one.server_info is not None}
    found = [
        Incompatibility(one, "role", fit.role, None, one.role.value)
        for one, fit in fits.items()
        if fit.role is not None and fit.role != one.role.value
    ]
    for field in MUST_AGREE:
        told = {one: value for one, fit in fits.items() if (value := getattr(fit, field)) is not None}
        if len(set(told.values())) > 1:
            ((usual, _),) = Counter(told.values()).most_common(1)
            other = next(one for one, value in told.items() if value == usual)
            found += [Incompatibility(one, field, v, other, usual) for one, v in told.items() if v != usual]
    return found


def warn(joined: Instance, instances: Sequence[Instance]) -> None:
    """What does not fit since this one is there, in one line."""
    found = [one for one in incompatibilities(instances) if joined in (one.instance, one.other)]
    if not found:
        return
    logger.warning(
        "%s does not fit: %s", joined, "; ".join(dict.fromkeys(_from(joined, one) for one in found))
    )


def by_instance(instances: Sequence[Instance]) -> dict[Instance, list[str]]:
    """The same in words, for whoever has any."""
    words: dict[Instance, list[str]] = {}
    for one in incompatibilities(instances):
        words.setdefault(one.instance, []).append(str(one))
    return words


def _from(joined: Instance, one: Incompatibility) -> str:
    if one.instance is joined:
        return str(one)
    return str(Incompatibility(joined, one.field, one.other_value, one.instance, one.value))
