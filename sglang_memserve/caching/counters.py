"""Sums of what one instance has done, to which all of its threads add."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

Number = int | float
# Instances come and go under new names: those beyond this many share one sum.
_MAX_SOURCES = 64
_OTHERS = "others"


class Counters:
    """From any thread. The sum of a name is plain or kept by source, never both."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, Number] = {}
        self._by_source: dict[str, dict[str, Number]] = {}

    def add(self, name: str, amount: Number = 1, *, source: str | None = None) -> None:
        with self._lock:
            sums, key = self._sums, name
            if source is not None:
                sums = self._by_source.setdefault(name, {})
                key = source if source in sums or len(sums) < _MAX_SOURCES else _OTHERS
            sums[key] = sums.get(key, 0) + amount

    @contextmanager
    def moving(self, kind: str, num_bytes: int) -> Iterator[None]:
        """Adds to `kind`_bytes and `kind`_seconds, unless it raises."""
        began = time.monotonic()
        yield
        self.moved(kind, num_bytes, began)

    def moved(self, kind: str, num_bytes: int, began: float) -> None:
        """As `moving`, for a copy that began at this time of the monotonic clock and ends now."""
        self.add(f"{kind}_bytes", num_bytes)
        self.add(f"{kind}_seconds", time.monotonic() - began)

    def read(self) -> dict[str, Number | dict[str, Number]]:
        """The sums by name; a dict by source where they are kept so. Sums of ints are ints."""
        with self._lock:
            return {**self._sums, **{name: dict(sums) for name, sums in self._by_source.items()}}
