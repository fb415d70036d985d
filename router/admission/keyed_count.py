from __future__ import annotations

from collections import Counter


class KeyedCount:
    """How many of something each key holds. A key that holds nothing takes no memory."""

    def __init__(self) -> None:
        self.total = 0
        self._held: Counter[str] = Counter()

    def __getitem__(self, key: str) -> int:
        return self._held[key]

    def take(self, key: str, limit: int | None) -> bool:
        """Takes another one, unless `key` holds `limit` already. Each one taken is to be given back."""
        if limit is not None and self._held[key] >= limit:
            return False
        self._held[key] += 1
        self.total += 1
        return True

    def give_back(self, key: str) -> None:
        self.total -= 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
