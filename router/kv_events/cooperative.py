"""Long work that lets everything else on the event loop go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

_SLICE_S = 0.0005
_MAX_SNAPSHOTS = 4


class CooperativeRunner:
    """Runs long work on the event loop in slices of half a millisecond.

    Each round of the loop has one slice, and all work takes turns. `snapshots`: hold it while asking for and
    applying a snapshot, so that only a few of them are in memory.
    """

    def __init__(self) -> None:
        self.snapshots = asyncio.Semaphore(_MAX_SNAPSHOTS)
        self._turn = asyncio.Lock()

    async def work(self, steps: Iterator[None]) -> None:
        """Runs all steps, each of which should be short. Raises what they raise."""
        more = True
        while more:
            async with self._turn:
                more = _slice_of(steps)
                await asyncio.sleep(0)


def _slice_of(steps: Iterator[None]) -> bool:
    """Runs steps for one slice. Returns whether there may be more."""
    until = time.perf_counter() + _SLICE_S
    return any(time.perf_counter() >= until for _ in steps)
