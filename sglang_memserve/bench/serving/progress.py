"""How far a run has come, on stderr."""

import contextlib
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from sglang_memserve.bench.serving.answer import Record

_EVERY_S = 0.2
_WIDTH = 24


class Progress:
    """A bar that is drawn over itself on a terminal; elsewhere one line when the block ends."""

    def __init__(self, what: str, total: int, to: TextIO | None = None) -> None:
        self._what = what
        self._total = total
        self._to = to or sys.stderr
        self._done = self._failed = 0
        self._began = self._drawn = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draw("\n")

    def count(self, record: Record) -> None:
        """One more request has ended."""
        self._done += 1
        self._failed += record.error is not None
        if self._to.isatty() and time.monotonic() - self._drawn > _EVERY_S:
            self._drawn = time.monotonic()
            self._draw("")

    def __str__(self) -> str:
        full = _WIDTH * self._done // max(1, self._total)
        bar = "#" * full + "." * (_WIDTH - full)
        failed = f", {self._failed} failed" if self._failed else ""
        seconds = time.monotonic() - self._began
        return f"{self._what}: [{bar}] {self._done}/{self._total} requests{failed}, {seconds:.0f} s"

    def _draw(self, end: str) -> None:
        over = "\r\x1b[K" if self._to.isatty() else ""
        with contextlib.suppress(OSError):  # whoever read it is gone
            self._to.write(f"{over}{self}{end}")
            self._to.flush()
