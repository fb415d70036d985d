"""What instances are charged while a request runs: its tokens, and its predicted prefill."""

from __future__ import annotations

from collections.abc import Callable

from router.instances.instance import Instance

# Sums of such fractions are exact: what is charged and released leaves nothing behind.
_UNITS = 1 << 20


class PrefillReservation:
    """A predicted prefill: `seconds` of the instance, and `sending_s` of the `source` that it fetches from.

    `reserve` charges them. The first of `done` (the prefill is over) and `release` (nobody waits for it any
    more) gives them back. `on_done` gets the seconds that it took, and whether the instance had no other
    prefill when it began and when it ended.
    """

    __slots__ = (
        "_alone",
        "_begun_at",
        "_instance",
        "_on_done",
        "_reserved",
        "_seconds",
        "_sending",
        "_sending_s",
        "_source",
    )

    def __init__(
        self,
        instance: Instance,
        seconds: float,
        *,
        source: Instance | None = None,
        sending_s: float = 0.0,
        on_done: Callable[[float, bool], None] = lambda *_: None,
    ) -> None:
        self._instance = instance
        self._seconds = _exact(seconds)
        self._source = source
        self._sending_s = _exact(sending_s)
        self._on_done = on_done
        self._begun_at = 0.0
        self._alone = False
        self._reserved = self._sending = False

    def reserve(self) -> None:
        self._alone = not self._instance.charged_seconds
        self._begun_at = self._instance.clock()
        self._instance.begin_prefill(self, self._seconds)
        self._reserved = True
        if self._source is not None:
            self._source.begin_sending(self._sending_s)
            self._sending = True

    def fetched(self) -> None:
        """The source has sent what it was asked for, or should have."""
        if self._source is not None and self._sending:
            self._source.end_sending(self._sending_s)
            self._sending = False

    def done(self) -> None:
        if self._reserved:
            self.release()
            alone = self._alone and not self._instance.charged_seconds
            self._on_done(self._instance.clock() - self._begun_at, alone)

    def release(self) -> None:
        if self._reserved:
            self._reserved = False
            self._instance.end_prefill(self)
            self.fetched()


class Reservation:
    """One instance's part in a request. `reserve` charges the instance, before anything is awaited after it
    was chosen; `release` gives back what is still charged, in any case.

    In between, `prefilled`, `began` and `completed` say how far the instance has come. `tokens`: what it is
    charged with. `prefill`: None where none was predicted.
    """

    __slots__ = ("_prefill", "_reserved", "_tokens", "instance")

    def __init__(
        self, instance: Instance, tokens: int = 0, prefill: PrefillReservation | None = None
    ) -> None:
        self.instance = instance
        self._tokens = tokens
        self._prefill = prefill
        self._reserved = False

    def reserve(self) -> None:
        self._reserved = True
        if self._prefill is not None:
            self._prefill.reserve()
        self.instance.charge(self._tokens)
        self.instance.breaker.takes(self)

    def prefilled(self) -> None:
        if self._prefill is not None:
            self._prefill.done()

    def began(self) -> None:
        """A stream has begun well: its prefill is over."""
        self.instance.breaker.began(self)
        self.prefilled()

    def completed(self) -> None:
        """The answer has come to its end, and is no failure."""
        self.instance.breaker.began(self)
        self.instance.breaker.ended()

    def release(self) -> None:
        if not self._reserved:
            return
        self._reserved = False
        self.instance.release(self._tokens)
        self.instance.breaker.leaves(self)
        if self._prefill is not None:
            self._prefill.release()


def _exact(seconds: float) -> float:
    return round(seconds * _UNITS) / _UNITS
