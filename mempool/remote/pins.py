"""Published KV that is kept from eviction for other instances."""

import heapq
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

from mempool.address import Medium
from mempool.remote.ledger import PeerLedger
from mempool.remote.messages import Caller
from mempool.results import MatchResult


class _Pin(NamedTuple):
    deadline: float
    number: int
    caller: Caller
    medium: Medium
    match: MatchResult


class PeerPins:
    """Each ends at its deadline, or with the incarnation that it was for. Used under the pool's lock."""

    def __init__(self, ledger: PeerLedger) -> None:
        self._ledger = ledger
        self._numbers = itertools.count()
        self._pins: list[_Pin] = []

    def add(self, caller: Caller, medium: Medium, match: MatchResult, seconds: float) -> None:
        """`match`: what is kept, under a lease of so many seconds."""
        self._ledger.add_blocks(caller.instance, medium, match.blocks)
        deadline = time.monotonic() + seconds
        heapq.heappush(self._pins, _Pin(deadline, next(self._numbers), caller, medium, match))

    def expire(self) -> None:
        now = time.monotonic()
        while self._pins and self._pins[0].deadline <= now:
            self._end(heapq.heappop(self._pins))

    def release(self, is_dead: Callable[[Caller], bool]) -> None:
        """Ends those of these callers."""
        kept: list[_Pin] = []
        for pin in self._pins:
            if is_dead(pin.caller):
                self._end(pin)
            else:
                kept.append(pin)
        heapq.heapify(kept)
        self._pins = kept

    def _end(self, pin: _Pin) -> None:
        pin.match.release()
        self._ledger.add_blocks(pin.caller.instance, pin.medium, -pin.match.blocks)
