from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily

PREFIX = "memserve:router_"


class Distribution:
    """A histogram, one for each combination of labels. `bounds`: the buckets' upper ends, ascending.

    For one thread. The library's own histogram would keep creation times too, and write files where
    `PROMETHEUS_MULTIPROC_DIR` is set, as SGLang does.
    """

    def __init__(self, name: str, about: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self._name = PREFIX + name
        self._about = about
        self._bounds = tuple(bounds)
        self._labels = tuple(labels)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, value: float, *labels: str) -> None:
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def collect(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for labels, counts in self._counts.items():
            family.add_metric(labels, list(self._buckets(counts)), self._sums[labels])
        return family

    def _buckets(self, counts: Sequence[int]) -> Iterator[tuple[str, int]]:
        so_far = 0
        for bound, count in zip((*map(float, self._bounds), "+Inf"), counts, strict=True):
            so_far += count
            yield str(bound), so_far
