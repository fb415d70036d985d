"""How far a run has come, on stderr."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from sglang_memserve.bench.serving.answer import ReplayRecord

_DRAWN_A_SECOND = 5


class RunProgress:
    """A bar on a terminal. Elsewhere nothing until the block ends, and then one line."""

    def __init__(self, what: str, total: int, to: TextIO | None = None) -> None:
        console = Console(file=to or sys.stderr, highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("requests{task.fields[failed]}"),
            TimeElapsedColumn(),
        )
        self._console = console
        self._bar = Bar(
            *columns, console=console, refresh_per_second=_DRAWN_A_SECOND, disable=not console.is_terminal
        )
        self._task = self._bar.add_task(what, total=total, failed="")
        self._what, self._total = what, total
        self._done = self._failed = 0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not self._console.is_terminal:
            self._console.print(str(self), markup=False, soft_wrap=True)

    def count(self, record: ReplayRecord) -> None:
        """One more request has ended."""
        self._done += 1
        self._failed += record.error is not None
        self._bar.update(self._task, completed=self._done, failed=self._failures)

    def __str__(self) -> str:
        seconds = time.monotonic() - self._began
        return f"{self._what}: {self._done}/{self._total} requests{self._failures}, {seconds:.0f} s"

    @property
    def _failures(self) -> str:
        return f", {self._failed} failed" if self._failed else ""
