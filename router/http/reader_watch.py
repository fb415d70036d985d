"""Clients that do not read what they asked for."""

from __future__ import annotations


class ReaderWatch:
    """Whether a client reads what is sent to it, from how much of that is not taken yet."""

    __slots__ = ("_read", "_since", "_unsent", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._unsent = 0
        self._since: float | None = None
        self._read = True

    def has_read(self) -> None:
        """Since the latest look."""
        self._read = True

    def is_stuck(self, unsent: int, now: float, *, writes: bool) -> bool:
        """Whether nothing of it was read for `timeout_s` seconds.

        `writes`: more may have been written since the latest look, so that `unsent` tells nothing.
        """
        stood_still = 0 < self._unsent <= unsent and not (writes or self._read)
        self._unsent, self._read = unsent, False
        if not stood_still:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= self.timeout_s
