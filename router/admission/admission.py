from __future__ import annotations

from collections import Counter

from router.admission.body_memory import BodyMemory
from router.admission.connections import ClientConnections
from router.admission.descriptors import connections_for
from router.admission.request_queue import AdmissionQueue
from router.config.settings import RouterConfig

_BODY_MEMORY = 1 << 30


class Admission:
    """What one running router takes on at the same time. `refused` counts what it did not, by reason."""

    def __init__(self, config: RouterConfig) -> None:
        self.refused: Counter[str] = Counter()
        limit = config.max_connections or connections_for(instances=len(list(config.urls())))
        by_address = config.max_connections_per_address or max(1, 3 * limit // 4)
        self.connections = ClientConnections(limit, by_address, self.refused)
        self.bodies = BodyMemory(config.max_body_memory or max(_BODY_MEMORY, 4 * config.max_payload_size))
        requests, rate = config.max_concurrent_requests, config.rate_limit_tokens_per_second
        self.requests = AdmissionQueue(
            requests if requests > 0 else None,
            config.queue_size,
            config.queue_timeout_secs,
            rate if rate > 0 else None,
        )
