"""An instance's answer on its way to the client, and how a response is read."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp

from router.errors import InstanceRefused


class AnswerTooLarge(ValueError):
    """The body has more bytes than the caller allows."""


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """What the client gets: `body`, followed by the chunks of `rest` if the answer is a stream.

    `failure`: the error in a stream's first event, for a stream that failed before it began.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    rest: AsyncIterator[bytes] | None = None
    failure: InstanceRefused | None = None


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body. Raises AnswerTooLarge past `limit` bytes, and closes the connection then."""
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            response.close()
            raise AnswerTooLarge(f"the answer is larger than {limit} bytes")
    return b"".join(chunks)


def is_own_lack(error: Exception) -> bool:
    """Whether the router has no file descriptor left: no fault of the instance's."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)


def describe_error(error: Exception) -> str:
    """A network error in few words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        refused = error.certificate_error
        return f"its certificate is refused: {getattr(refused, 'verify_message', refused)}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = getattr(error.os_error, "reason", None) or str(error.os_error)
        return f"TLS fails there: {reason.lower().replace('_', ' ')}"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return os.strerror(error.os_error.errno).lower()
    return str(error) or type(error).__name__
