"""Each request from its headers to its end: its id, the access log, and the metrics of requests."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from aiohttp import web
from aiohttp.typedefs import Handler

from router.forwarding.record import RECORD, REQUEST_ID, RequestRecord
from router.http.target import endpoint_of
from router.instances.instance import Instance
from router.metrics.requests import CLIENT_LEFT, Requests
from router.protocol.usage import ReportedUsage

logger = logging.getLogger("router.access")

# A client must not write lines of its own into the log.
_GOOD_ID = re.compile(r"[!-~]{1,128}")
_PATH_CHARS = 200


class AccessLog:
    """Logs a line at level info for each request, if `enabled`; the metrics get each request in any case."""

    def __init__(self, metrics: Requests, *, enabled: bool) -> None:
        self._metrics = metrics
        self._enabled = enabled

    def watch(self, app: web.Application) -> None:
        """Before all other middlewares are put in: what these answer themselves has an id and a line too."""
        app.middlewares.insert(0, self._follow)
        app.on_response_prepare.append(self._answering)

    @web.middleware
    async def _follow(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        record = request[RECORD] = RequestRecord(_request_id(request))
        status = CLIENT_LEFT
        try:
            response = await handler(request)
            status = response.status
            return response
        except asyncio.CancelledError:
            if not record.answered:
                self._metrics.client_left(_endpoint(request), record)
            raise
        finally:
            self._metrics.stream_ended(_endpoint(request), record)
            if self._enabled and logger.isEnabledFor(logging.INFO):
                logger.info(line(request.method, request.rel_url.raw_path, status, record))

    async def _answering(self, request: web.Request, response: web.StreamResponse) -> None:
        record = request.get(RECORD)
        if record is None:
            # aiohttp refuses an unknown Expect header before any middleware.
            record = request[RECORD] = RequestRecord(_request_id(request))
        record.answering()
        response.headers[REQUEST_ID] = record.request_id
        self._metrics.answered(_endpoint(request), response.status, record)


def line(method: str, path: str, status: int, record: RequestRecord) -> str:
    """`name=value` with spaces between; `-` for what is not known. Token counts that no instance reported are
    the router's own, with a `~`.
    """
    decision, outcome = record.decision, record.outcome or ReportedUsage()
    predicted = decision if decision is not None and decision.tokenised else None
    prompt = _count(outcome.prompt_tokens, None if predicted is None else predicted.prompt_tokens)
    cached = _count(outcome.cached_tokens, None if predicted is None else predicted.predicted)
    return (
        f"request_id={record.request_id} method={method} path={path:.{_PATH_CHARS}} status={status} "
        f"prefill={_url(record.prefill)} decode={_url(record.decode)} "
        f"prompt_tokens={prompt} cached_tokens={cached} "
        f"ttft_ms={_ms(record.ttft_s)} total_ms={_ms(record.elapsed_s)}"
    )


def _request_id(request: web.Request) -> str:
    given = request.headers.get(REQUEST_ID, "")
    return given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex


def _endpoint(request: web.Request) -> str:
    return endpoint_of(request) or "other"


def _url(instance: Instance | None) -> str:
    return "-" if instance is None else instance.url


def _count(reported: int | None, predicted: int | None) -> str:
    if reported is not None:
        return str(reported)
    return "-" if predicted is None else f"~{predicted}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.1f}"
