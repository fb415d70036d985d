"""The prefill that an instance has before it, in seconds: charged when it is chosen, until it is done."""

from __future__ import annotations

import time
from collections.abc import Callable

from router.instance import Instance

# Sums of such fractions are exact: what is charged and released leaves nothing behind.
_UNITS = 1 << 20


class Work:
    """Charged while it lasts: `seconds` to the instance, and `sending` to the `source` that it fetches from.

    Call `done` when the prefill is over, or `drop` for one that nobody waits for any more: whichever is first
    ends it. `told` gets the seconds that it took, and whether the instance had no other prefill when it began
    and when it ended.
    """

    def __init__(
        self,
        instance: Instance,
        seconds: float,
        source: Instance | None = None,
        sending: float = 0.0,
        told: Callable[[float, bool], None] = lambda *_: None,
    ) -> None:
        self._charged = [(instance, _exact(seconds))]
        self._sending = [] if source is None else [(source, _exact(sending))]
        self._told = told
        self._instance = instance
        self._alone = not instance.charged_seconds
        self._begun = time.monotonic()
        self._lasts = True
        self._charge(1)

    def done(self) -> None:
        if self._lasts:
            self.drop()
            alone = self._alone and not self._instance.charged_seconds
            self._told(time.monotonic() - self._begun, alone)

    def drop(self) -> None:
        if self._lasts:
            self._lasts = False
            self._charge(-1)

    def _charge(self, sign: int) -> None:
        for one, seconds in self._charged:
            one.charged_seconds += sign * seconds
        for one, seconds in self._sending:
            one.sending_seconds += sign * seconds


def _exact(seconds: float) -> float:
    return round(seconds * _UNITS) / _UNITS
