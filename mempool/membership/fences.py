"""Incarnations that are over, and may not come back; and processes that another took the place of."""

from collections import deque

_MOST = 65536
# Of each instance: as many as one that is declared dead again and again leaves behind in a while.
_EACH = 16


class Fences:
    """The latest entries of each instance. Bounded: those of instances that are long gone are forgotten.

    Entries have no order but that in which they came: what an instance, or one that claims its name, says of
    itself makes none greater than another.
    """

    def __init__(self) -> None:
        self._entries: dict[str, deque[int | bytes]] = {}

    def has(self, instance: str, entry: int | bytes) -> bool:
        return entry in self._entries.get(instance, ())

    def latest(self, instance: str) -> int | bytes | None:
        """The entry that was added last."""
        known = self._entries.get(instance)
        return known[-1] if known else None

    def add(self, instance: str, entry: int | bytes) -> None:
        """Idempotent."""
        known = self._entries.pop(instance, None) or deque(maxlen=_EACH)
        if entry not in known:
            known.append(entry)
        self._entries[instance] = known
        if len(self._entries) > _MOST:
            del self._entries[next(iter(self._entries))]
