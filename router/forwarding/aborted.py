"""What clients have aborted by name: it must not be tried again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import orjson

_MOST = 4096


class Aborted:
    """The latest aborts that came through the router. `count` grows with each."""

    def __init__(self) -> None:
        self.count = 0
        self._latest: deque[tuple[int, str]] = deque(maxlen=_MOST)

    def hear(self, raw: bytes) -> None:
        """The body of an `/abort_request`."""
        try:
            asked = orjson.loads(raw)
        except ValueError:
            return
        if isinstance(asked, dict):
            rid = asked.get("rid")
            self.count += 1
            self._latest.append((self.count, "" if asked.get("abort_all") or rid is None else str(rid)))

    def since(self, count: int, rids: Iterable[str]) -> bool:
        """Whether one of `rids` was aborted since `count`. SGLang takes a name for all that begin with it."""
        named = [name for number, name in self._latest if number > count]
        return "" in named or any(rid.startswith(name) for rid in rids for name in named)
