"""An instance's counters at SGLang's own `/metrics`, where the server runs with `--enable-metrics`."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

_PREFIX = "memserve:"
_INTERVAL_S = 1.0
# Gauges, like the names that begin with "open_". All others are sums.
_GAUGES = ("dram_blocks", "dram_blocks_in_use")


class MetricsPublisher:
    """Publishes what `read` returns: numbers by name, and dicts of numbers by source. It skips other values.

    The scheduler's process makes it. SGLang's main process collects the metrics from files, for which
    PROMETHEUS_MULTIPROC_DIR must be set before. `labels`: of each metric.
    """

    def __init__(self, read: Callable[[], Mapping[str, Any]], labels: Mapping[str, Any]) -> None:
        # On import it decides whether there are several processes: not before the environment is set.
        from prometheus_client import CollectorRegistry

        self._read = read
        self._labels = {name: str(value) for name, value in labels.items()}
        # The files are collected. SGLang's own registry need not know of them.
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {}
        self._published: dict[tuple[str, str | None], float] = {}
        self._next = 0.0

    def publish(self) -> None:
        """Once a second at most; otherwise it returns at once."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL_S
        try:
            for name, value in self._read().items():
                if isinstance(value, dict):
                    for source, part in value.items():
                        self._set(name, part, source)
                elif isinstance(value, (int, float)):
                    self._set(name, value, None)
        except Exception:
            logger.exception("MemServe's counters are not at /metrics any more")
            self._next = math.inf

    def _set(self, name: str, value: float, source: str | None) -> None:
        labels = self._labels if source is None else self._labels | {"source": source}
        metric = self._metrics.get(name)
        if metric is None:
            metric = self._metrics[name] = self._metric(name, list(labels))
        if _is_gauge(name):
            metric.labels(**labels).set(value)
            return
        growth = value - self._published.get((name, source), 0)
        if growth >= 0:
            metric.labels(**labels).inc(growth)
            self._published[name, source] = value

    def _metric(self, name: str, labels: list[str]) -> Any:
        from prometheus_client import Counter, Gauge

        description = "See MemServe's docs/caching.md."
        if _is_gauge(name):
            return Gauge(
                _PREFIX + name, description, labels, registry=self._registry, multiprocess_mode="mostrecent"
            )
        return Counter(_PREFIX + name, description, labels, registry=self._registry)


def _is_gauge(name: str) -> bool:
    return name.startswith("open_") or name in _GAUGES
