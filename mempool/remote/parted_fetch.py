"""One prefix that comes from several instances, each its part."""

import time
from collections.abc import Mapping
from concurrent.futures import Future

from mempool.address import Addresses, BlockNumbers
from mempool.errors import MemPoolError, TransferError
from mempool.local import LocalPool
from mempool.remote.requests import settle
from mempool.results import MatchResult
from mempool.sources import FetchPart


class PartedFetch:
    """Publishes parts in the order of the prefix, whichever lands first. From any thread.

    The index has prefixes only, so a part waits, as active blocks of this fetch, for those before it. The
    fetch ends when all parts are published, or when one is lost and all before it are published. What has
    landed behind a lost part is freed.

    `parts`: by the cookie of each, in order, without gaps. `head`: what is here before the first of them,
    under a lease, which the fetch ends. `result`: how many blocks are published here in the end, counted
    from the first of the tokens; or the error of the first part, where that is lost.
    """

    def __init__(
        self,
        local: LocalPool,
        tokens: BlockNumbers,
        namespace: str,
        parts: Mapping[bytes, FetchPart],
        head: MatchResult,
        deadline: float,
    ) -> None:
        self.result: Future[int] = Future()
        self.cookies = tuple(parts)
        self._local = local
        self._tokens = tokens
        self._namespace = namespace
        self._parts = tuple(parts.values())
        self._head = head
        self._present = self._published = head.blocks
        self._deadline = deadline
        self._next = 0
        self._landed: dict[int, Addresses] = {}
        # Nothing where a source said that it has no more; else what went wrong.
        self._lost: dict[int, MemPoolError | None] = {}
        self._end_if_over()

    def landed(self, cookie: bytes, addresses: Addresses) -> None:
        """These active blocks have the first, or all, of the part. They are this fetch's from now on."""
        number = self.cookies.index(cookie)
        with self._local.lock:
            if number >= self._first_lost():
                self._local.give_back(addresses)
                return
            self._landed[number] = addresses
            part = self._parts[number]
            if len(addresses) < part.stop - part.first:
                self._lose(number + 1, None)
            self._publish_landed()
        self._end_if_over()

    def lost(self, cookie: bytes, error: MemPoolError | None) -> None:
        """No block of the part comes any more. `error`: None where its source does not have it."""
        with self._local.lock:
            self._lose(self.cookies.index(cookie), error)
        self._end_if_over()

    @property
    def unwanted(self) -> tuple[bytes, ...]:
        """The cookies of parts that are of no use any more: the first that is lost, and those behind it."""
        with self._local.lock:
            return self.cookies[self._first_lost() :]

    def _first_lost(self) -> int:
        return min(self._lost, default=len(self._parts))

    def _lose(self, number: int, error: MemPoolError | None) -> None:
        self._lost.setdefault(number, error)
        for behind in [each for each in self._landed if each >= number]:
            self._local.give_back(self._landed.pop(behind))

    def _publish_landed(self) -> None:
        while (addresses := self._landed.pop(self._next, None)) is not None:
            try:
                self._publish(addresses)
                self._next += 1
            except (MemPoolError, ValueError) as error:
                self._local.give_back(addresses)
                self._lose(self._next, TransferError(self._parts[self._next].instance, str(error)))

    def _publish(self, addresses: Addresses) -> None:
        """Raises MemPoolError, ValueError: the head is not published any more."""
        stop = self._published + len(addresses)
        whole = self._tokens[: stop * self._local.layout.page_size]
        self._local.free_mem(self._local.insert(whole, addresses, self._namespace))
        self._published = stop
        before, left_s = self._head, max(0.0, self._deadline - time.monotonic())
        self._head = self._local.match(whole, self._namespace, lease_s=left_s)
        before.release()

    def _end_if_over(self) -> None:
        """Callbacks of the result run without the pool's lock."""
        with self._local.lock:
            if self._next < min(len(self._parts), self._first_lost()):
                return
            self._head.release()
            error = self._lost.get(self._next)
        came = self._published > self._present
        settle(self.result, self._published if came or error is None else error)
