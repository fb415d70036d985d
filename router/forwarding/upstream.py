"""One request to one instance: sent, its answer read, broken off."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from router.config.settings import RouterConfig
from router.errors import InstanceFailed, InstanceRefused, InstanceSilent, Overloaded
from router.instances.client import InstanceClient, Redirected
from router.instances.instance import Instance
from router.protocol import handover, headers, sse, upload
from router.protocol.answer import AnswerTooLarge, UpstreamAnswer, describe_error, is_own_lack, read_body
from router.scheduling.reservation import Reservation

logger = logging.getLogger(__name__)

NO_DESCRIPTORS = "file_descriptors"
_STREAMS = (sse.CONTENT_TYPE, "application/x-ndjson")
# By these an instance is broken. One that is full (429, 503) is well.
_BROKEN = frozenset({500, 502, 504})
# A name that another request has is refused at once. So long a silence says that the request was taken.
_REFUSAL_SECS = 0.5
# SGLang's words, with a 500, for a request that was aborted by name, perhaps not through this router.
ABORTED = b"Aborted by AbortReq"


@dataclass(frozen=True, slots=True)
class Request:
    """What an instance gets. `target` is path and query; `headers` give the body's length."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class UpstreamRequest:
    """One instance's part in a request. Call `answer` or `drain`, once; then `close`.

    Its instance is charged already, by `reservation`; `close` releases that. Closing before the answer's end
    drops the connection and calls `on_abandoned`. A refused or broken connection marks the instance
    unreachable. Both calls raise InstanceRefused (an answer of 400 or more), InstanceFailed (no connection,
    a broken one, too large an answer) and InstanceSilent.
    """

    def __init__(
        self,
        client: InstanceClient,
        request: Request,
        reservation: Reservation,
        config: RouterConfig,
        on_abandoned: Callable[[], None] | None = None,
        once_accepted: bool = False,
        partner: Instance | None = None,
    ) -> None:
        self.instance = reservation.instance
        self.finished = False
        self._reservation = reservation
        self._on_abandoned = on_abandoned
        self._partner = partner
        self._client = client
        self._request = request
        self._limit = config.max_payload_size
        self._timeout_s = config.request_timeout_secs
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=config.connect_timeout_secs, sock_read=config.request_timeout_secs
        )
        self._response: aiohttp.ClientResponse | None = None
        self._closed = self._refused = False
        self._accepted = not once_accepted
        self._begun = time.monotonic()

    async def answer(self) -> UpstreamAnswer:
        """The whole answer, or a stream from its first bytes on."""
        with network_errors(self.instance):
            response = await self._open()
            reply = headers.to_client(response.headers)
            if response.content_type not in _STREAMS:
                answer = UpstreamAnswer(response.status, reply, await self._whole(response))
                self._end()
                return answer
            first = await response.content.readany()
            rest = self._rest(response)
            if (code := sse.failure_in(first.partition(sse.END)[0])) is not None:
                return UpstreamAnswer(
                    response.status, reply, first, rest, self._refusal(response, first, code)
                )
            self._accepted = True
            self._reservation.began()
            return UpstreamAnswer(response.status, reply, first, rest)

    async def drain(self, on_event: Callable[[bytes], None] | None = None) -> None:
        """Read the answer to its end, as prefill's. `on_event` gets it, or each event of a stream.

        Without it nothing is kept. A failure inside a stream is an InstanceRefused.
        """
        try:
            with network_errors(self.instance):
                response = await self._open()
                if response.content_type == sse.CONTENT_TYPE:
                    await self._read_events(response, on_event)
                elif on_event is not None:
                    on_event(await self._whole(response))
                else:
                    async for _ in response.content.iter_any():
                        pass
                self._end()
                self._reservation.prefilled()
        finally:
            await self.close()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._reservation.release()
        if self._response is not None:
            self._response.close()
        if self._on_abandoned is not None and self._accepted and not self.finished:
            self._on_abandoned()

    async def decided(self, task: asyncio.Task[Any]) -> None:
        """Returns once the instance has taken the request or refused it. `task` runs `answer` or `drain`."""
        if not self._accepted:
            await asyncio.wait([task], timeout=max(0.0, self._begun + _REFUSAL_SECS - time.monotonic()))
            self._accepted |= not task.done()

    async def _open(self) -> aiohttp.ClientResponse:
        request = self._request
        async with upload.bounded(request.body, self._timeout_s) as data:
            response = self._response = await self._client.request(
                self.instance,
                request.method,
                request.target,
                data=data,
                headers=request.headers,
                timeout=self._timeout,
            )
        if response.status >= 400:
            raise self._refusal(response, await self._whole(response), response.status)
        return response

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        body = await read_body(response, self._limit)
        self.finished = True
        return body

    async def _read_events(
        self, response: aiohttp.ClientResponse, on_event: Callable[[bytes], None] | None
    ) -> None:
        events = sse.EventBuffer() if on_event is None else sse.EventBuffer(self._limit)
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if on_event is not None and size > self._limit:
                raise AnswerTooLarge(f"the answer is larger than {self._limit} bytes")
            for event in events.feed(chunk):
                if (code := sse.failure_in(event)) is not None:
                    raise self._refusal(response, event + sse.END + sse.DONE, code)
                self._accepted = True
                if on_event is not None:
                    on_event(event)

    async def _rest(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        with network_errors(self.instance):
            async for chunk in response.content.iter_any():
                yield chunk
            self._end()

    def _end(self) -> None:
        self.finished = True
        if not self._refused:
            self._reservation.completed()

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes, code: int) -> InstanceRefused:
        self._refused = True
        broken = code in _BROKEN and ABORTED not in body
        at_fault = self._at_fault(body) if broken else None
        if at_fault is not None:
            at_fault.failed()
        return InstanceRefused(
            response.status,
            headers.to_client(response.headers),
            body,
            f"{self.instance} answered {code or response.status}",
            code=code,
            instance_url=(at_fault or self.instance).url,
        )

    def _at_fault(self, body: bytes) -> Instance | None:
        """Whose failure it is. None: the other half ended the request, and reports itself why."""
        if self._partner is None or not handover.is_failed_handover(body):
            return self.instance
        if handover.is_abort(body):
            return None
        if handover.failed_role(body) != self._partner.role:
            return self.instance
        # Perhaps it is dead, and the next probe would come in seconds.
        self._partner.probe_requested.set()
        return self._partner


@contextmanager
def network_errors(instance: Instance) -> Iterator[None]:
    """Network errors in the block become InstanceSilent (a timeout), InstanceFailed, or Overloaded.

    A broken or refused connection marks the instance unreachable.
    """
    try:
        yield
    except aiohttp.SocketTimeoutError:
        instance.failed()
        message = f"{instance} went silent during the request"
        raise InstanceSilent(message, instance_url=instance.url) from None
    except Redirected as error:
        instance.failed()
        raise InstanceFailed(f"{instance}: {error}", instance_url=instance.url) from None
    except AnswerTooLarge as error:
        raise InstanceFailed(f"{instance}: {error} (--max-payload-size)") from None
    except (aiohttp.ClientError, OSError) as error:
        if is_own_lack(error):
            raise Overloaded(NO_DESCRIPTORS, "the router has no file descriptors left (ulimit -n)") from error
        instance.mark_unreachable(describe_error(error))
        message = f"{instance} cannot be reached or broke off: {describe_error(error)}"
        raise InstanceFailed(message, instance_url=instance.url) from error
