"""One SGLang server as the router sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)


_UNPROBED = "not probed yet"


class Role(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"
    COLOCATED = "colocated"


class Instance:
    """A server's address, role and condition. It counts as down until a probe has succeeded."""

    def __init__(self, url: str, role: Role, bootstrap_port: int | None = None) -> None:
        self.url = url
        self.role = role
        self.bootstrap_port = bootstrap_port
        self.healthy = False
        self.trouble = _UNPROBED
        self.in_flight = 0
        # Whether each sample of a prompt gets a room of its own there; None: not known yet.
        self.room_per_sample: bool | None = None
        self.suspected = asyncio.Event()

    def __str__(self) -> str:
        return f"{self.role} instance {self.url}"

    @property
    def bootstrap_host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def takes_samples(self) -> bool:
        """Whether `n` may be more than one there."""
        return self.role is Role.COLOCATED or self.room_per_sample is True

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def up(self) -> None:
        if not self.healthy:
            logger.info("%s is healthy", self)
        self.healthy, self.trouble = True, ""

    def down(self, trouble: str) -> None:
        if self.healthy or self.trouble is _UNPROBED:
            logger.warning("%s is down: %s", self, trouble)
        self.healthy, self.trouble = False, trouble
        # What comes back at this address may be another server.
        self.room_per_sample = None

    def suspect(self, trouble: str) -> None:
        """Take it out of the rotation, and have it probed at once rather than at the next interval."""
        self.down(trouble)
        self.suspected.set()

    def describe(self) -> dict[str, object]:
        return {
            "url": self.url,
            "role": self.role.value,
            "bootstrap_port": self.bootstrap_port,
            "healthy": self.healthy,
            "trouble": self.trouble or None,
            "in_flight": self.in_flight,
        }
