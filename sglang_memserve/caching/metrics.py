"""An instance's counters at SGLang's own `/metrics`, where the server runs with `--enable-metrics`."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

_PREFIX = "memserve:"
_SECONDS = 1.0
# What is so now, as is what begins with "open_"; all else only grows.
_NOW = ("dram_blocks", "dram_blocks_in_use")


class Metrics:
    """Publishes what `read` gives: numbers by name, dicts of numbers by source, and others that it skips.

    For the process whose numbers they are; SGLang's main process collects them from files, for which
    PROMETHEUS_MULTIPROC_DIR must be set before this is made. `labels`: with each number.
    """

    def __init__(self, read: Callable[[], Mapping[str, Any]], labels: Mapping[str, Any]) -> None:
        # Not before: on import it decides whether there are several processes.
        from prometheus_client import CollectorRegistry

        self._read = read
        self._labels = {name: str(value) for name, value in labels.items()}
        # The files are what is collected. SGLang's own registry need not know.
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {}
        self._told: dict[tuple[str, str | None], float] = {}
        self._next = 0.0

    def publish(self) -> None:
        """Once a second at most; otherwise it returns at once."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SECONDS
        try:
            for name, value in self._read().items():
                if isinstance(value, dict):
                    for source, part in value.items():
                        self._tell(name, part, source)
                elif isinstance(value, (int, float)):
                    self._tell(name, value, None)
        except Exception:
            logger.exception("MemServe's counters are not at /metrics any more")
            self._next = math.inf

    def _tell(self, name: str, value: float, source: str | None) -> None:
        labels = self._labels if source is None else self._labels | {"source": source}
        metric = self._metrics.get(name)
        if metric is None:
            metric = self._metrics[name] = self._metric(name, list(labels))
        if _is_now(name):
            metric.labels(**labels).set(value)
            return
        grown = value - self._told.get((name, source), 0)
        if grown >= 0:
            metric.labels(**labels).inc(grown)
            self._told[name, source] = value

    def _metric(self, name: str, labels: list[str]) -> Any:
        from prometheus_client import Counter, Gauge

        about = "See MemServe's docs/caching.md."
        if _is_now(name):
            return Gauge(
                _PREFIX + name, about, labels, registry=self._registry, multiprocess_mode="mostrecent"
            )
        return Counter(_PREFIX + name, about, labels, registry=self._registry)


def _is_now(name: str) -> bool:
    return name.startswith("open_") or name in _NOW
