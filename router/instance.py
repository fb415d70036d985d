"""One SGLang server as the router sees it."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from urllib.parse import urlsplit

from router.traits import Traits

logger = logging.getLogger(__name__)


_UNPROBED = "not probed yet"


class Role(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"
    COLOCATED = "colocated"


class Instance:
    """A server's address, role and condition. It counts as down until a probe has succeeded.

    `in_flight` requests are charged to it, of `charged` tokens together. `epoch` grows whenever what it had
    cached is gone. `traits`: what it told of itself; None: not known yet. `doubted`: it may have changed.
    """

    def __init__(self, url: str, role: Role, bootstrap_port: int | None = None) -> None:
        self.url = url
        self.role = role
        self.bootstrap_port = bootstrap_port
        self.healthy = False
        self.trouble = _UNPROBED
        self.in_flight = 0
        self.charged = 0
        self.epoch = 0
        self.traits: Traits | None = None
        self.doubted = False
        self.suspected = asyncio.Event()

    def __str__(self) -> str:
        return f"{self.role} instance {self.url}"

    @property
    def bootstrap_host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def takes_samples(self) -> bool:
        """Whether `n` may be more than one there."""
        return self.role is Role.COLOCATED or (self.traits is not None and self.traits.room_per_sample)

    @property
    def page_size(self) -> int:
        return 1 if self.traits is None else self.traits.page_size

    def charge(self, tokens: int) -> None:
        self.in_flight += 1
        self.charged += tokens

    def release(self, tokens: int) -> None:
        self.in_flight -= 1
        self.charged -= tokens

    def forgot(self) -> None:
        """What it had cached is gone."""
        self.epoch += 1

    def up(self) -> None:
        if not self.healthy:
            logger.info("%s is healthy", self)
        self.healthy, self.trouble = True, ""

    def down(self, trouble: str) -> None:
        if self.healthy or self.trouble is _UNPROBED:
            logger.warning("%s is down: %s", self, trouble)
        self.healthy, self.trouble = False, trouble
        # What comes back at this address may be another server.
        self.traits = None
        self.forgot()

    def doubt(self) -> None:
        """Have it asked at once what it is: it may be another server at the same address."""
        self.doubted = True
        self.suspected.set()

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
            "charged_tokens": self.charged,
        }
