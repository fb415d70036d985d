"""Waiting for what another thread, process or task does. The time limits are far above what it takes."""

import asyncio
import time


def until(holds, what="what the test waits for", *, timeout_s=60.0):
    """Looks often at first, so that a short wait stays short, and then ten times a second."""
    deadline, pause_s = time.monotonic() + timeout_s, 0.001
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(pause_s)
        pause_s = min(1.2 * pause_s, 0.1)


async def eventually(holds, *, timeout_s=30.0):
    """As `until`, for what a task of this event loop does."""
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.002)
