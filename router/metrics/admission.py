"""What clients make the router hold, for /metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.admission.admission import Admission
from router.metrics.distribution import PREFIX


class AdmissionCollector:
    """What the router holds of what is bounded, and what it refused."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        admission = self._admission
        about = "Requests and connections that were refused or cut off at a bound."
        refused = CounterMetricFamily(PREFIX + "refused", about, labels=("reason",))
        for reason, count in admission.refused.items():
            refused.add_metric((reason,), count)
        yield refused
        for name, about, value in (
            ("connections", "Clients' connections.", admission.connections.count),
            ("body_memory_bytes", "Memory that requests' bodies take.", admission.bodies.held),
            ("admitted_requests", "Requests in flight, of those that queue.", admission.requests.in_flight),
            ("queued_requests", "Requests that wait for their turn.", admission.requests.waiting),
        ):
            yield GaugeMetricFamily(PREFIX + name, about, value)
