"""The headers that travel end to end."""

from __future__ import annotations

from collections.abc import Mapping

from multidict import CIMultiDict

_PER_CONNECTION = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
# aiohttp has decoded the content, and SGLang may take bootstrap fields from headers.
_NOT_FORWARDED = _PER_CONNECTION | {"host", "content-length", "content-encoding", "expect"}
_OVERRIDES = "x-override-bootstrap-"
_CREDENTIALS = frozenset({"authorization", "x-api-key"})
_NOT_RETURNED = _PER_CONNECTION | {"content-length", "date", "server"}


def to_instance(headers: Mapping[str, str], *, credentials: bool) -> CIMultiDict[str]:
    """The headers of a client that an instance gets; with `credentials`, the client's keys too."""
    dropped = _NOT_FORWARDED | _named_by_connection(headers)
    dropped |= frozenset() if credentials else _CREDENTIALS
    kept = ((name, value) for name, value in headers.items() if name.lower() not in dropped)
    return CIMultiDict((name, value) for name, value in kept if not name.lower().startswith(_OVERRIDES))


def to_client(headers: Mapping[str, str]) -> CIMultiDict[str]:
    dropped = _NOT_RETURNED | _named_by_connection(headers)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def _named_by_connection(headers: Mapping[str, str]) -> set[str]:
    lists = (value for name, value in headers.items() if name.lower() == "connection")
    return {name.strip().lower() for value in lists for name in value.split(",")}
