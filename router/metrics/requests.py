from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from router.forwarding.record import RequestRecord
from router.metrics.distribution import PREFIX, Distribution

CLIENT_LEFT = 499
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60, 120)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.4, 0.8, 1.5, 3)
_LABELS = ("path", "status", "role")


class Requests:
    """Counts requests, how long their first byte took, and how far apart the tokens of streams were.

    `path` is an endpoint's as in the list of endpoints: clients must not make up labels.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._first_byte = Distribution(
            "first_byte_seconds",
            "From a request's headers to the first byte of an instance's answer, unless it refused.",
            _SECONDS,
            ("path", "role"),
        )
        self._per_token = Distribution(
            "time_per_output_token_seconds",
            "Of a stream, from its first bytes to its last, divided by its tokens but the first.",
            _TOKEN_SECONDS,
            ("path", "role"),
        )

    def answered(self, path: str, status: int, record: RequestRecord) -> None:
        """An answer's headers go out, and with them its first byte."""
        role = _role(record)
        self._counts[path, str(status), role] += 1
        if role and status < 400:
            self._first_byte.observe(record.elapsed_s, path, role)

    def client_left(self, path: str, record: RequestRecord) -> None:
        """Before its answer."""
        self._counts[path, str(CLIENT_LEFT), _role(record)] += 1

    def stream_ended(self, path: str, record: RequestRecord) -> None:
        if (seconds := record.tpot_s) is not None:
            self._per_token.observe(seconds, path, _role(record))

    def collect(self) -> Iterator[Metric]:
        about = f"Requests by how they were answered ({CLIENT_LEFT}: the client left before that)."
        family = CounterMetricFamily(PREFIX + "requests", about, labels=_LABELS)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family
        yield self._first_byte.collect()
        yield self._per_token.collect()


def _role(record: RequestRecord) -> str:
    """Of the instance whose answer the client gets; "" where the router answers itself."""
    return "" if record.decode is None else record.decode.role.value
