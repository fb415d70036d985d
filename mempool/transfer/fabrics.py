"""Which of a receiver's endpoints a sender uses."""

import logging
import time
from collections.abc import Sequence

from mempool.transports.registry import Transports

logger = logging.getLogger(__name__)

# What could not be used once is tried again after so long: the receiver may have been full.
_AGAIN_SECONDS = 60.0
# Endpoints are peers' own words.
_MAX_REMEMBERED = 1024


class FabricChoice:
    """`usable` may be called from any thread, `failed` from the sender's.

    `fallbacks` counts how often an endpoint turned out to be of no use.
    """

    def __init__(self, transports: Transports) -> None:
        self._transports = transports
        self._failed_until: dict[str, float] = {}
        self.fallbacks = 0

    def usable(self, fabrics: Sequence[str], endpoint: str) -> list[str]:
        """Those to try, the best first. The last is `endpoint`, which every sender reaches if any."""
        return [*(each for each in fabrics if self._is_usable(each)), endpoint]

    def failed(self, endpoint: str, cause: object) -> None:
        """There is another one to use instead."""
        self.fallbacks += 1
        self._failed_until.pop(endpoint, None)
        self._failed_until[endpoint] = time.monotonic() + _AGAIN_SECONDS
        if len(self._failed_until) > _MAX_REMEMBERED:
            del self._failed_until[next(iter(self._failed_until))]
        logger.warning("%s cannot be used, blocks go another way: %s", endpoint, cause)

    def _is_usable(self, endpoint: str) -> bool:
        return self._failed_until.get(endpoint, 0.0) < time.monotonic() and self._transports.reaches(endpoint)
