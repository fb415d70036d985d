"""A line at the bottom of a terminal that says what is still starting."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

_REFRESH_S = 0.1


class Progress:
    """The last word of each process that starts. Call `note` for each; it is quiet when not a terminal."""

    def __init__(self) -> None:
        self._phases: dict[str, str] = {}
        self._began = time.monotonic()

    def note(self, name: str, phase: str) -> None:
        """`phase`: starting, loading, ..., "ready after 3 s"."""
        self._phases[name] = phase

    @property
    def line(self) -> str:
        """What is left, and for how long it has taken."""
        left = {name: phase for name, phase in self._phases.items() if not phase.startswith("ready")}
        ready = len(self._phases) - len(left)
        waited = ", ".join(f"{name} {phase}" for name, phase in left.items())
        rest = f": {waited}" if waited else ": first requests"
        return f"{ready} of {len(self._phases)} ready after {time.monotonic() - self._began:.0f} s{rest}"

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Keeps the line up to date in the block, below what is printed meanwhile."""
        if not sys.stdout.isatty():
            yield
            return
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        spinner = Spinner("dots", self.line)
        # Refreshed here and not by a thread, so that a terminal that is closed ends nothing but this.
        live = Live(spinner, console=Console(), auto_refresh=False, transient=True)
        with contextlib.suppress(OSError):
            live.start()
        turning = asyncio.create_task(self._turn(live, spinner))
        try:
            yield
        finally:
            turning.cancel()
            with contextlib.suppress(OSError):
                live.stop()

    async def _turn(self, live: Any, spinner: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                spinner.update(text=self.line)
                live.refresh()
                await asyncio.sleep(_REFRESH_S)
