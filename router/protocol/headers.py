"""The headers that travel end to end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multidict import CIMultiDict

ROUTING_KEY = "X-SMG-Routing-Key"
"""sglang_router's: requests with the same one belong together."""
_PER_CONNECTION = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_CREDENTIALS = frozenset({"authorization", "x-api-key"})
# What SGLang reads, and what follows a request through a system. No cookies, and nothing else that is meant
# for a proxy. SGLang's `x-override-...` would replace what the router has put into the body.
_FORWARDED = frozenset({
    "accept", "accept-encoding", "access-control-request-headers", "access-control-request-method", "baggage",
    "content-type", "origin", "traceparent", "tracestate", "x-correlation-id", "x-custom-labels",
    "x-data-parallel-rank", "x-request-id", "x-smg-routing-key",
})  # fmt: skip
_FORWARDED_PREFIXES = ("x-request-id-", "x-sglext-")
_NEVER_FORWARDED = _PER_CONNECTION | {"host", "content-length", "content-encoding", "expect"}
_NOT_RETURNED = _PER_CONNECTION | {"content-length", "date", "server"}


class HeaderFilter:
    """Lets an instance have what it needs of a client's headers, those named in `also` among them.

    With `credentials`, the client's keys too.
    """

    def __init__(self, *, credentials: bool, also: Iterable[str] = ()) -> None:
        allowed = _FORWARDED.union(map(str.lower, also)) - _NEVER_FORWARDED
        self._allowed = allowed | _CREDENTIALS if credentials else allowed - _CREDENTIALS

    def of(self, headers: Mapping[str, str]) -> CIMultiDict[str]:
        allowed, named = self._allowed, _named_by_connection(headers)
        kept: CIMultiDict[str] = CIMultiDict()
        for name, value in headers.items():
            lower = name.lower()
            if (lower in allowed or lower.startswith(_FORWARDED_PREFIXES)) and lower not in named:
                kept.add(name, value)
        return kept


def to_client(headers: Mapping[str, str]) -> CIMultiDict[str]:
    named = _named_by_connection(headers)
    dropped = _NOT_RETURNED | named if named else _NOT_RETURNED
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def _named_by_connection(headers: Mapping[str, str]) -> set[str]:
    lists = (value for name, value in headers.items() if name.lower() == "connection")
    return {name.strip().lower() for value in lists for name in value.split(",")}
