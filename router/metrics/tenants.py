"""What tenants use, for /metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.metrics.distribution import PREFIX
from router.tenants.directory import Tenants


class TenantsCollector:
    """What each tenant uses and was refused, read when the page is."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    def collect(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            PREFIX + "tenant_in_flight", "Requests of the tenant that run.", labels=("tenant",)
        )
        tokens = CounterMetricFamily(
            PREFIX + "tenant_tokens", "Tokens charged to the tenant: prompts and answers.", labels=("tenant",)
        )
        refusals = CounterMetricFamily(
            PREFIX + "tenant_refusals", "Requests refused by the tenant's limits.", labels=("tenant", "limit")
        )
        for name, quota in self._tenants:
            in_flight.add_metric((name,), quota.in_flight)
            tokens.add_metric((name,), quota.tokens)
            for limit, count in quota.refused.items():
                refusals.add_metric((name, limit), count)
        yield from (in_flight, tokens, refusals)
