"""What the handlers of one running router work with."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from router.admission.admission import Admission
from router.config.settings import RouterConfig
from router.fleet.fanout import Fanout
from router.fleet.workers import Workers
from router.forwarding.forwarder import Forwarder
from router.http.generate_probe import GenerateProbe
from router.instances.registry import Registry
from router.kv_events import Feeds
from router.metrics import Metrics
from router.scheduling.scheduler import Scheduler
from router.tenants.directory import Tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`feeds` is None where no policy looks at what instances have cached, `tenants` where there are none."""

    config: RouterConfig
    admission: Admission
    registry: Registry
    scheduler: Scheduler
    forwarder: Forwarder
    fanout: Fanout
    generate_probe: GenerateProbe
    workers: Workers
    feeds: Feeds | None
    tenants: Tenants | None
    metrics: Metrics


SERVICES = web.AppKey("SERVICES", Services)
