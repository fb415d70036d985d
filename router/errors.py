"""How requests fail, and what the client gets.

Failure                 the end of a request, as an HTTP answer
├── InstanceRefused     an instance's own answer, passed on
└── RouterError         the router's own: {"error": {"message", "type", "code"}}
    ├── BadRequest      400
    ├── Unauthorized    401
    ├── Forbidden       403
    ├── NoSuchWorker    404
    ├── ClientSilent    408
    ├── Conflict        409
    ├── PayloadTooLarge 413
    ├── UnknownEncoding 415
    ├── HeadTooLarge    431
    ├── LimitReached    a bound of the router's own; counted by its reason
    │   ├── QueuedTooLong   408
    │   ├── TooManyRequests 429
    │   │   └── TenantLimited
    │   └── Overloaded      503
    ├── InstanceFailed  502  connection refused, reset or broken off; names the instance
    ├── NoInstance      503  no healthy instance
    ├── Stopping        503  the router itself stops
    └── InstanceSilent  504  names the instance
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

import orjson

JSON_HEADERS: Mapping[str, str] = {"Content-Type": "application/json"}


def error_fields(status: int, message: str, kind: str) -> dict[str, str | int]:
    return {"message": _writable(message), "type": kind, "code": status}


def error_body(status: int, message: str, kind: str) -> bytes:
    return orjson.dumps({"error": error_fields(status, message, kind)})


def shown(value: object) -> str:
    """A client's value in a message, in few characters. Lists and objects may be nested too deep to write."""
    return type(value).__name__ if isinstance(value, list | dict) else f"{value!r:.40}"


def _writable(message: str) -> str:
    """Messages quote what clients send, of which JSON in UTF-8 cannot hold lone surrogates."""
    return message.encode(errors="backslashreplace").decode()


class Failure(Exception):
    """Ends a request with this status, these headers and this body.

    `instance_url`: the instance that failed, where another one may do better. `code`: the status that says
    what happened, also where the answer is a stream of status 200.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        message: str,
        *,
        code: int | None = None,
        instance_url: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = status if code is None else code
        self.headers = headers
        self.body = body
        self.instance_url = instance_url


class InstanceRefused(Failure):
    """An instance's own answer of 400 or more, or its error in a stream."""

    def rewrite(self, body: bytes) -> None:
        """Puts `body` in place of the instance's own."""
        self.body = body


class RouterError(Failure):
    status_code = HTTPStatus.INTERNAL_SERVER_ERROR
    kind = "router_error"

    def __init__(self, message: str, *, instance_url: str | None = None) -> None:
        status = self.status_code.value
        body = error_body(status, message, self.kind)
        super().__init__(status, JSON_HEADERS, body, message, instance_url=instance_url)


class BadRequest(RouterError):
    status_code = HTTPStatus.BAD_REQUEST
    kind = "invalid_request_error"


class Unauthorized(RouterError):
    status_code = HTTPStatus.UNAUTHORIZED
    kind = "authentication_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {**JSON_HEADERS, "WWW-Authenticate": "Bearer"}


class Forbidden(RouterError):
    status_code = HTTPStatus.FORBIDDEN
    kind = "forbidden"


class NoSuchWorker(RouterError):
    status_code = HTTPStatus.NOT_FOUND
    kind = "not_found"


class ClientSilent(RouterError):
    status_code = HTTPStatus.REQUEST_TIMEOUT
    kind = "client_silent"


class Conflict(RouterError):
    status_code = HTTPStatus.CONFLICT
    kind = "conflict"


class PayloadTooLarge(RouterError):
    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "payload_too_large"


class UnknownEncoding(RouterError):
    status_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    kind = "unknown_encoding"

    def __init__(self, message: str, known: str) -> None:
        super().__init__(message)
        self.headers = {**JSON_HEADERS, "Accept-Encoding": known}


class HeadTooLarge(RouterError):
    status_code = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    kind = "headers_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"a request's first line and headers may have {limit} bytes together")


class LimitReached(RouterError):
    """A bound of the router's own is reached; the client may come again after `retry_after_s` seconds.

    `reason`: a few words that do not come from a client. It is the error's type, and a label in /metrics.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float = 1) -> None:
        self.reason = self.kind = reason
        super().__init__(message)
        self.headers = {**JSON_HEADERS, "Retry-After": str(max(1, math.ceil(retry_after_s)))}


class QueuedTooLong(LimitReached):
    status_code = HTTPStatus.REQUEST_TIMEOUT


class TooManyRequests(LimitReached):
    status_code = HTTPStatus.TOO_MANY_REQUESTS


class TenantLimited(TooManyRequests):
    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__("rate_limit_exceeded", message, retry_after_s)


class Overloaded(LimitReached):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE


class InstanceFailed(RouterError):
    status_code = HTTPStatus.BAD_GATEWAY
    kind = "instance_failed"


class NoInstance(RouterError):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "no_instance"


class Stopping(RouterError):
    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "stopping"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {**JSON_HEADERS, "Connection": "close"}


class InstanceSilent(RouterError):
    status_code = HTTPStatus.GATEWAY_TIMEOUT
    kind = "instance_silent"
