"""Another attempt for a request that failed before its answer began."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator

from router.config.settings import RouterConfig
from router.errors import Failure, NoInstance
from router.forwarding.aborts import AbortSender, ClientAborts
from router.forwarding.attempt import Attempt
from router.forwarding.upstream import ABORTED

logger = logging.getLogger(__name__)

# What is no fault of the request's: the same list as sglang_router's.
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})

# SGLang's words for a name that another request has: the attempt before, which has not ended yet there.
_NAME_TAKEN = b"Duplicate request ID"

# At none of the URLs of instances that have failed, if there are others. Raises Failure.
NewAttempt = Callable[[Collection[str]], Attempt]


class Retries:
    """Makes attempts until an answer begins, or another attempt would gain nothing; the last failure counts.

    No attempt begins later than `request_timeout_secs` after the first. `count`: attempts but the first ones.
    """

    def __init__(
        self,
        config: RouterConfig,
        client_aborts: ClientAborts,
        abort_sender: AbortSender,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count = 0
        self._config = config
        self._client_aborts = client_aborts
        self._abort_sender = abort_sender
        self._rng = rng or random.Random()
        self._clock = clock

    async def run(self, new_attempt: NewAttempt, rids: Collection[str] = ()) -> Attempt:
        """An attempt that has run; close it. `rids`: the names by which the client may abort the request.

        Raises Failure.
        """
        failures = _Failures(backoff(self._config, self._rng), self._config.request_timeout_secs, self._clock)
        aborts_before = self._client_aborts.count
        while True:
            attempt, failure = await _run(new_attempt, failures.urls)
            pause = None if failure is None else failures.pause_after(failure)
            if pause is None or self._client_aborts.any_since(aborts_before, rids):
                break
            if attempt is not None:
                await attempt.close()
                attempt = None
            logger.info("trying a request again: %s", failures.last)
            await asyncio.gather(asyncio.sleep(pause), self._abort_sender.wait(rids))
            if self._client_aborts.any_since(aborts_before, rids):
                break
            self.count += 1
        if attempt is None:
            assert failures.last is not None
            raise failures.last
        return attempt


class _Failures:
    """The failures of one request. `urls`: of the instances that failed; `last`: what the client gets."""

    def __init__(self, pauses: Iterator[float], timeout_s: float, clock: Callable[[], float]) -> None:
        self.urls: set[str] = set()
        self.last: Failure | None = None
        self._pauses = pauses
        self._clock = clock
        self._deadline = clock() + timeout_s

    def pause_after(self, failure: Failure) -> float | None:
        """Seconds until the next attempt; None if nothing is gained by it."""
        # The instance that failed may be back by then, and its failure says more than that none is there.
        if self.last is None or not isinstance(failure, NoInstance):
            self.last = failure
        if not self._worth_retrying(self.last) or self.last.instance_url is None:
            return None
        self.urls.add(self.last.instance_url)
        pause = next(self._pauses, None)
        return None if pause is None or self._clock() + pause > self._deadline else pause

    def _worth_retrying(self, failure: Failure) -> bool:
        if ABORTED in failure.body:
            return False
        return failure.code in _RETRIED or (bool(self.urls) and _NAME_TAKEN in failure.body)


async def _run(new_attempt: NewAttempt, failed: Collection[str]) -> tuple[Attempt | None, Failure | None]:
    """The attempt if it has an answer, and its failure; it has both if a stream begins with its failure."""
    try:
        attempt = new_attempt(failed)
        return attempt, (await attempt.run()).failure
    except Failure as failure:
        return None, failure


def backoff(config: RouterConfig, rng: random.Random) -> Iterator[float]:
    """The pauses between attempts, in seconds: one fewer than there may be attempts."""
    pause, longest = config.retry_initial_backoff_ms / 1000, config.retry_max_backoff_ms / 1000
    for _ in range(0 if config.disable_retries else config.retry_max_retries - 1):
        jitter = rng.uniform(-config.retry_jitter_factor, config.retry_jitter_factor)
        yield min(pause * (1 + jitter), longest)
        pause = min(pause * config.retry_backoff_multiplier, longest)
