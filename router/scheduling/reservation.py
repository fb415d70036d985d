"""The prefill that an instance has before it, in seconds: charged when it is chosen, until it is done."""

from __future__ import annotations

from collections.abc import Callable

from router.instances.instance import Instance

# Sums of such fractions are exact: what is charged and released leaves nothing behind.
_UNITS = 1 << 20


class PrefillReservation:
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
        self._source = source
        self._sending = _exact(sending)
        self._told = told
        self._instance = instance
        self._alone = not instance.charged_seconds
        self._begun = instance.clock()
        self._lasts = True
        instance.begin_prefill(self, _exact(seconds))
        if source is not None:
            source.sending_seconds += self._sending

    def fetched(self) -> None:
        """The source has sent what it was asked for, or should have."""
        if self._source is not None:
            self._source.sending_seconds -= self._sending
            self._source = None

    def done(self) -> None:
        if self._lasts:
            self.drop()
            alone = self._alone and not self._instance.charged_seconds
            self._told(self._instance.clock() - self._begun, alone)

    def drop(self) -> None:
        if self._lasts:
            self._lasts = False
            self._instance.end_prefill(self)
            self.fetched()


def _exact(seconds: float) -> float:
    return round(seconds * _UNITS) / _UNITS
