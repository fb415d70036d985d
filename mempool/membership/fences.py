"""Incarnations that are over, and may not come back."""

_MOST = 65536


class Fences:
    """The newest ended incarnation of each instance. Bounded: those that ended long ago are forgotten."""

    def __init__(self) -> None:
        self._ended: dict[str, int] = {}

    def of(self, instance: str) -> int:
        """0 when none has ended."""
        return self._ended.get(instance, 0)

    def raise_to(self, instance: str, incarnation: int) -> None:
        newest = max(incarnation, self._ended.pop(instance, 0))
        self._ended[instance] = newest
        if len(self._ended) > _MOST:
            del self._ended[next(iter(self._ended))]
