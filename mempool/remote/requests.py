"""Requests to other instances, on their way to the control thread."""

import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from typing import NamedTuple, TypeVar

from mempool.errors import MemPoolError, PeerDied
from mempool.remote.messages import ControlReply, ControlRequest
from mempool.sockets import Wakeup

T = TypeVar("T")


class OutgoingRequest(NamedTuple):
    """`deadline`: on the monotonic clock, in seconds."""

    endpoint: str
    request: ControlRequest
    deadline: float
    reply: Future[ControlReply]


class RequestQueue:
    """Filled from any thread, emptied by the control thread, which polls `wakeup`."""

    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self._queue: deque[OutgoingRequest] = deque()
        self._closed = False

    def send(self, endpoint: str, request: ControlRequest, timeout_s: float) -> Future[ControlReply]:
        """The reply, PeerDied, or DeadlinePassed after `timeout_s`. From any thread; never blocks."""
        reply: Future[ControlReply] = Future()
        self._queue.append(OutgoingRequest(endpoint, request, time.monotonic() + timeout_s, reply))
        self.wakeup.set()
        if self._closed:
            self._end_queued()
        return reply

    def take(self) -> OutgoingRequest | None:
        """The oldest request, or None."""
        try:
            return self._queue.popleft()
        except IndexError:
            return None

    def close(self) -> None:
        """Requests that nobody took end with PeerDied, and so do later ones. Idempotent."""
        self._closed = True
        self._end_queued()
        self.wakeup.close()

    def _end_queued(self) -> None:
        while (queued := self.take()) is not None:
            settle(queued.reply, PeerDied(queued.endpoint, "this instance stops"))


def settle(reply: Future[T], outcome: T | MemPoolError) -> None:
    """Ends a future. Does nothing where its owner cancelled it."""
    try:
        if isinstance(outcome, MemPoolError):
            reply.set_exception(outcome)
        else:
            reply.set_result(outcome)
    except InvalidStateError:
        return
