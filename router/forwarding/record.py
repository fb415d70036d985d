"""What is known of one client's request while it runs, for the access log and the metrics."""

from __future__ import annotations

import time
from typing import NamedTuple

from aiohttp import web
from multidict import CIMultiDict

from router.instances.instance import Instance
from router.protocol.usage import ReportedUsage
from router.scheduling.decisions import Decision
from router.tenants.tenant import Tenant

REQUEST_ID = "X-Request-Id"


class RequestRecord:
    """`request_id`: the client's, or one that was made for it.

    `prefill` and `decode`: the instances that serve it, of the latest attempt; an instance that serves it
    alone is `decode`. `decision`: why those, where a policy chose. `outcome`: what the answer reported.
    `ttft_s` and `stream_s`, of a stream: from the request's headers to its first bytes, and from these to its
    last. `stream_events`: how many events it had, but for the final `[DONE]`.
    """

    __slots__ = (
        "answered",
        "begun_at",
        "decision",
        "decode",
        "outcome",
        "prefill",
        "request_id",
        "stream_events",
        "stream_s",
        "ttft_s",
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.begun_at = time.perf_counter()
        self.answered = False
        self.prefill: Instance | None = None
        self.decode: Instance | None = None
        self.decision: Decision | None = None
        self.outcome: ReportedUsage | None = None
        self.ttft_s: float | None = None
        self.stream_s: float | None = None
        self.stream_events = 0

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.begun_at

    @property
    def tpot_s(self) -> float | None:
        """Time per output token of a stream. Where the answer does not count tokens, its events are taken."""
        tokens = (self.outcome.completion_tokens if self.outcome else None) or self.stream_events
        return None if self.stream_s is None or tokens < 2 else self.stream_s / (tokens - 1)

    def served_by(
        self, decode: Instance, prefill: Instance | None = None, decision: Decision | None = None
    ) -> None:
        """Another attempt begins there."""
        self.decode, self.prefill, self.decision, self.outcome = decode, prefill, decision, None

    def answering(self) -> None:
        """The answer's headers go out."""
        self.answered = True

    def reported(self, outcome: ReportedUsage) -> None:
        self.outcome = outcome

    def stream_began(self) -> None:
        self.ttft_s = self.elapsed_s

    def stream_ended(self, events: int) -> None:
        if self.ttft_s is not None:
            self.stream_s, self.stream_events = self.elapsed_s - self.ttft_s, events


RECORD = web.RequestKey("RECORD", RequestRecord)


class UpstreamTarget(NamedTuple):
    """Where an instance gets a request: `path` as the list of endpoints spells it, `query` with its "?"."""

    path: str
    query: str = ""

    def __str__(self) -> str:
        return self.path + self.query


TARGET = web.RequestKey("TARGET", UpstreamTarget)
TENANT = web.RequestKey("TENANT", Tenant)
"""Set for a request that is a tenant's."""


def client_headers(request: web.Request) -> CIMultiDict[str]:
    """The client's headers, with the request's id."""
    headers = CIMultiDict(request.headers)
    headers[REQUEST_ID] = request[RECORD].request_id
    return headers
