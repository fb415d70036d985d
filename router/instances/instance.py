"""One SGLang server as the router sees it."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from enum import StrEnum
from urllib.parse import urlsplit

from router.instances.breaker import Breaker
from router.instances.server_info import ServerInfo

logger = logging.getLogger(__name__)


_UNPROBED = "not probed yet"


class Role(StrEnum):
    """What an instance does of a request."""

    PREFILL = "prefill"
    DECODE = "decode"
    COLOCATED = "colocated"


class Instance:
    """The address, role and condition of a server. It counts as down until a probe has succeeded.

    `in_flight` requests are charged to it, of `charged` tokens together. Predicted, and not done yet, are
    `charged_seconds` of prefill and `sending_seconds` of what others fetch from it; the first of these
    prefills, of `first_seconds`, is under way since `first_since`. `clock`: seconds, monotonic. `cache_epoch`
    grows whenever what it had cached is gone. One that is `leaving` gets no new requests, and is `idle` when
    the last of its own has ended. `api_key` is what it asks the router for; "" for nothing.
    """

    def __init__(
        self,
        url: str,
        role: Role,
        bootstrap_port: int | None = None,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
        api_key: str = "",
    ) -> None:
        self.url = url
        self.api_key = api_key
        self.role = role
        self.bootstrap_port = bootstrap_port
        self.clock = clock
        self.healthy = False
        self.trouble = _UNPROBED
        self.in_flight = 0
        self.charged = 0
        self.charged_seconds = 0.0
        self.sending_seconds = 0.0
        self._prefills: dict[object, float] = {}
        self.first_seconds = self.first_since = 0.0
        self.cache_epoch = 0
        self._server_info: ServerInfo | None = None
        self._on_change: list[Callable[[Instance], None]] = []
        self._recheck_requested = False
        self._gone = False
        self.probe_requested = asyncio.Event()
        self.breaker = Breaker(clock=clock) if breaker is None else breaker
        self.leaving = False
        self.idle = asyncio.Event()

    def __str__(self) -> str:
        return f"{self.role} instance {self.url}"

    @property
    def server_info(self) -> ServerInfo | None:
        """What it has reported of itself; None: not known yet."""
        return self._server_info

    @property
    def recheck_requested(self) -> bool:
        """Whether `server_info` may have changed."""
        return self._recheck_requested

    def on_change(self, changed: Callable[[Instance], None]) -> None:
        """Calls `changed` once, with this instance, when `server_info` is replaced next."""
        self._on_change.append(changed)

    def learn(self, server_info: ServerInfo | None) -> None:
        """It has reported this of itself. None: what it had reported may be outdated."""
        self._server_info = server_info
        listeners, self._on_change = self._on_change, []
        for changed in listeners:
            changed(self)

    @property
    def bootstrap_host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def takes_samples(self) -> bool:
        """Whether it serves requests with `n` above 1."""
        return self.role is Role.COLOCATED or (
            self.server_info is not None and self.server_info.room_per_sample
        )

    @property
    def page_size(self) -> int:
        return 1 if self.server_info is None else self.server_info.page_size

    def charge(self, tokens: int) -> None:
        self.in_flight += 1
        self.charged += tokens

    def release(self, tokens: int) -> None:
        self.in_flight -= 1
        self.charged -= tokens
        if self.leaving and not self.in_flight:
            self.idle.set()

    def begin_prefill(self, reservation: object, seconds: float) -> None:
        """Charges a prefill, predicted to take `seconds`. Call `end_prefill` with it in any case."""
        if not self._prefills:
            self.first_seconds, self.first_since = seconds, self.clock()
        self._prefills[reservation] = seconds
        self.charged_seconds += seconds

    def end_prefill(self, reservation: object) -> None:
        first = next(iter(self._prefills)) is reservation
        self.charged_seconds -= self._prefills.pop(reservation)
        if first:
            self.first_seconds = next(iter(self._prefills.values()), 0.0)
            self.first_since = self.clock()

    def begin_sending(self, seconds: float) -> None:
        """Charges the KV that another instance fetches from it. Call `end_sending` in any case."""
        self.sending_seconds += seconds

    def end_sending(self, seconds: float) -> None:
        self.sending_seconds -= seconds

    @property
    def id(self) -> str:
        """A UUID that follows from the URL."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, self.url))

    @property
    def unavailable_reason(self) -> str:
        """Why it takes no requests now; "" if it does."""
        if self.leaving:
            return "is being removed"
        if self.healthy and not self.breaker.lets_through():
            return "rests, since its answers kept failing"
        return self.trouble

    def leave(self) -> None:
        self.leaving = True
        if not self.in_flight:
            self.idle.set()

    def failed(self) -> None:
        """A request has failed there."""
        if self.breaker.failed():
            logger.warning("%s keeps failing: it gets no requests for %g s", self, self.breaker.rest_s)

    def bump_cache_epoch(self) -> None:
        """What it had cached is lost."""
        self.cache_epoch += 1

    def up(self) -> None:
        if not self.healthy:
            logger.info("%s is healthy", self)
        self.healthy, self.trouble = True, ""
        if self._gone:
            self._gone = False
            self.breaker.reset()

    def gone(self, trouble: str) -> None:
        """Nothing listens at its address any more: what answers there next is another server."""
        self._gone = True
        self.down(trouble)

    def down(self, trouble: str) -> None:
        if self.healthy or self.trouble is _UNPROBED:
            logger.warning("%s is down: %s", self, trouble)
        self.healthy, self.trouble = False, trouble
        # The server that comes back at this address may be another one.
        self.learn(None)
        self.bump_cache_epoch()

    def request_recheck(self) -> None:
        """Has its /server_info read again at once: another server may have its address by now."""
        self._recheck_requested = True
        self.probe_requested.set()

    def recheck_done(self) -> None:
        """Its /server_info has been read."""
        self._recheck_requested = False

    def mark_unreachable(self, trouble: str) -> None:
        """Takes it out of the rotation, and has it probed at once rather than at the next interval."""
        # A server that dies breaks many connections: that counts as one failure.
        if self.healthy:
            self.failed()
        self.down(trouble)
        self.probe_requested.set()

    def describe(self) -> dict[str, object]:
        return {
            "id": self.id,
            "url": self.url,
            "role": self.role.value,
            "bootstrap_port": self.bootstrap_port,
            "healthy": self.healthy,
            "trouble": self.trouble or None,
            "leaving": self.leaving,
            "circuit": self.breaker.state,
            "in_flight": self.in_flight,
            "charged_tokens": self.charged,
            "charged_seconds": round(self.charged_seconds, 6),
            "sending_seconds": round(self.sending_seconds, 6),
            # By sglang_router's names.
            "worker_type": "regular" if self.role is Role.COLOCATED else self.role.value,
            "is_healthy": self.healthy,
            "load": self.in_flight,
            "connection_mode": "HTTP",
        }


def prefill_queues(instances: Iterable[Instance], now: float) -> list[float]:
    """For each instance, predicted seconds until it has prefilled all that it is charged with.

    The first of its prefills runs since `first_since`; one that takes longer than predicted counts as nearly
    done. A decision asks this of all instances, so it is one call for all of them.
    """
    queues = []
    for instance in instances:
        queue = instance.charged_seconds
        if queue:
            ran, predicted = now - instance.first_since, instance.first_seconds
            queue -= ran if ran < predicted else predicted
        queues.append(queue)
    return queues
