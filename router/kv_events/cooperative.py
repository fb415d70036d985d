from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

_SLICE_SECONDS = 0.0005
_MOST_SNAPSHOTS = 4


class CooperativeRunner:
    """Long work on the event loop, half a millisecond at a time: between two slices everything else has a go.

    However many want to work, there is one slice in each round of the loop, and they take turns. Who asks for
    a snapshot holds one of `snapshots` until it is done with it: so a few are in memory, not everybody's.
    """

    def __init__(self) -> None:
        self.snapshots = asyncio.Semaphore(_MOST_SNAPSHOTS)
        self._turn = asyncio.Lock()

    async def work(self, steps: Iterator[None]) -> None:
        """All of the steps, none of which should be long. Raises what they raise."""
        more = True
        while more:
            async with self._turn:
                more = _slice_of(steps)
                await asyncio.sleep(0)


def _slice_of(steps: Iterator[None]) -> bool:
    """Whether there may be more."""
    until = time.perf_counter() + _SLICE_SECONDS
    return any(time.perf_counter() >= until for _ in steps)
