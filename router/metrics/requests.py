from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.core import CounterMetricFamily, Metric

from router.forwarding.forwarder import SERVED_BY
from router.metrics.distribution import PREFIX, Distribution

_BEGAN, _ANSWERED = web.RequestKey("began", float), web.RequestKey("answered", bool)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60, 120)
_LEFT = 499
_LABELS = ("path", "status", "role")


class Requests:
    """Counts requests, and how long their first byte took."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._first_byte = Distribution(
            "first_byte_seconds",
            "From a request's headers to the first byte of an instance's answer, unless it refused.",
            _SECONDS,
            ("path", "role"),
        )

    def watch(self, app: web.Application) -> None:
        """Has every answer of `app` counted. Before all other middlewares are put in."""
        app.middlewares.insert(0, self._timed)
        app.on_response_prepare.append(self._answered)

    def collect(self) -> Iterator[Metric]:
        about = f"Requests by how they were answered ({_LEFT}: the client left before that)."
        family = CounterMetricFamily(PREFIX + "requests", about, labels=_LABELS)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family
        yield self._first_byte.collect()

    @web.middleware
    async def _timed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[_BEGAN] = time.perf_counter()
        try:
            return await handler(request)
        except asyncio.CancelledError:
            if not request.get(_ANSWERED):
                self._counts[_path(request), str(_LEFT), request.get(SERVED_BY, "")] += 1
            raise

    async def _answered(self, request: web.Request, response: web.StreamResponse) -> None:
        """The headers of an answer go out, and with them its first byte."""
        request[_ANSWERED] = True
        path, role, status = _path(request), request.get(SERVED_BY, ""), response.status
        self._counts[path, str(status), role] += 1
        if role and status < 400:
            self._first_byte.observe(time.perf_counter() - request[_BEGAN], path, role)


def _path(request: web.Request) -> str:
    """As the list of endpoints has it: clients must not make up labels."""
    resource = request.match_info.route.resource
    return "other" if resource is None else resource.canonical
