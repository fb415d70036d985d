from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router.admission.admission import Admission
from router.forwarding.retries import Retries
from router.instances.registry import Registry
from router.metrics.admission import AdmissionCollector
from router.metrics.predictions import Predictions
from router.metrics.requests import Requests
from router.metrics.state import RouterStateCollector
from router.metrics.tenants import TenantsCollector
from router.scheduling.scheduler import Scheduler
from router.tenants.directory import Tenants


class Metrics:
    """What one running router measures, for Prometheus. Routers of one process share nothing.

    `requests` is to be called for each request; all else is read, or watched, where it is.
    """

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        retries: Retries,
        admission: Admission,
        tenants: Tenants | None = None,
    ) -> None:
        self.requests = Requests()
        self._all = CollectorRegistry(auto_describe=False)
        predictions = Predictions()
        scheduler.decisions.watch(predictions)
        state = RouterStateCollector(registry, scheduler, retries)
        for collector in (self.requests, predictions, state, AdmissionCollector(admission)):
            self._all.register(collector)
        if tenants is not None:
            self._all.register(TenantsCollector(tenants))

    async def answer(self, request: web.Request) -> web.Response:
        """The page, in the form that the client prefers."""
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        # With many endpoints, writing the text takes longer than a request: no request waits for it.
        text = await asyncio.to_thread(encode, _Snapshot(list(self._all.collect())))
        return web.Response(body=text, headers={"Content-Type": kind})


class _Snapshot(Collector):
    """What was collected, for an encoder, which collects by itself."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def scraped_app(metrics: Metrics) -> web.Application:
    """An application of the metrics page alone, for a port of its own."""
    app = web.Application()
    app.router.add_get("/metrics", metrics.answer)
    return app
