"""Another try for a request that failed before its answer began."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from router.config.settings import RouterConfig
from router.errors import Failure, NoInstance
from router.forwarding.aborted import Aborted
from router.forwarding.aborts import Aborts
from router.forwarding.upstream import ABORTED
from router.protocol.answer import Answer

logger = logging.getLogger(__name__)

# What is no fault of the request's: the same list as sglang_router's.
_WORTH = frozenset({408, 429, 500, 502, 503, 504})

# SGLang's words for a name that another request has: the try before, which has not ended yet there.
_TAKEN = b"Duplicate request ID"

# One try, by instances at other URLs than those that have failed if there are any. Raises Failure.
Once = Callable[[Collection[str]], AbstractAsyncContextManager[Answer]]


class Retries:
    """Tries until an answer begins, or nothing is gained by another try; then the last failure counts.

    No try begins later than `request_timeout_secs` after the first.
    """

    def __init__(self, config: RouterConfig, aborted: Aborted, aborts: Aborts) -> None:
        self._config = config
        self._aborted = aborted
        self._aborts = aborts

    @asynccontextmanager
    async def run(self, once: Once, rids: Collection[str] = ()) -> AsyncIterator[Answer]:
        """`rids`: the names by which the client may abort the request meanwhile. Raises Failure."""
        tries, heard = _Tries(self._config), self._aborted.count
        async with AsyncExitStack() as stack:
            while True:
                answer, failure = await _begin(stack, once, tries.failed)
                pause = None if failure is None else tries.pause(failure)
                if pause is None or self._aborted.since(heard, rids):
                    break
                answer = None
                await stack.aclose()
                logger.info("trying a request again: %s", tries.why)
                await asyncio.gather(asyncio.sleep(pause), self._aborts.sent(rids))
                if self._aborted.since(heard, rids):
                    break
            if answer is None:
                assert tries.why is not None
                raise tries.why
            yield answer


class _Tries:
    """Those of one request. `failed`: URLs of the instances that failed; `why`: the failure that counts."""

    def __init__(self, config: RouterConfig) -> None:
        self.failed: set[str] = set()
        self.why: Failure | None = None
        self._pauses = backoff(config)
        self._deadline = _now() + config.request_timeout_secs

    def pause(self, failure: Failure) -> float | None:
        """Seconds until the next one; None if nothing is gained by it."""
        # Whoever failed may be back by then, and the failure says more than that nobody is there.
        if self.why is None or not isinstance(failure, NoInstance):
            self.why = failure
        if not self._worth(self.why) or self.why.instance_url is None:
            return None
        self.failed.add(self.why.instance_url)
        pause = next(self._pauses, None)
        return None if pause is None or _now() + pause > self._deadline else pause

    def _worth(self, failure: Failure) -> bool:
        if ABORTED in failure.body:
            return False
        return failure.code in _WORTH or (bool(self.failed) and _TAKEN in failure.body)


async def _begin(
    stack: AsyncExitStack, once: Once, failed: Collection[str]
) -> tuple[Answer | None, Failure | None]:
    try:
        answer = await stack.enter_async_context(once(failed))
    except Failure as failure:
        return None, failure
    return answer, answer.failure


def backoff(config: RouterConfig) -> Iterator[float]:
    """The pauses between tries, in seconds: one fewer than there may be tries."""
    pause, longest = config.retry_initial_backoff_ms / 1000, config.retry_max_backoff_ms / 1000
    for _ in range(0 if config.disable_retries else config.retry_max_retries - 1):
        jitter = random.uniform(-config.retry_jitter_factor, config.retry_jitter_factor)
        yield min(pause * (1 + jitter), longest)
        pause = min(pause * config.retry_backoff_multiplier, longest)


def _now() -> float:
    return asyncio.get_running_loop().time()
