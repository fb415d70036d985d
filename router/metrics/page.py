from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from router.instances.registry import Registry
from router.metrics.predictions import Predictions
from router.metrics.requests import Requests
from router.metrics.state import State
from router.scheduling.scheduler import Scheduler


class Metrics:
    """All that one running router tells Prometheus; it shares nothing with another one's."""

    def __init__(self, registry: Registry, routing: Scheduler) -> None:
        self._all = CollectorRegistry(auto_describe=False)
        self._requests = Requests()
        predictions = Predictions()
        routing.decisions.watchers.append(predictions)
        for collector in (self._requests, predictions, State(registry, routing)):
            self._all.register(collector)

    def watch(self, app: web.Application) -> None:
        """Count the requests of `app`."""
        self._requests.watch(app)

    async def answer(self, request: web.Request) -> web.Response:
        """The page, in the form that the client prefers."""
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._all), headers={"Content-Type": kind})


def scraped_app(metrics: Metrics) -> web.Application:
    """An application of that page alone, for a port of its own."""
    app = web.Application()
    app.router.add_get("/metrics", metrics.answer)
    return app
