"""The connection to the control channel of one instance, with its pending requests.

For the control thread alone.
"""

import heapq
import itertools
import time
from collections import deque
from concurrent.futures import Future

from mempool.address import Medium
from mempool.errors import DeadlinePassed, FrameError, MemPoolError
from mempool.remote import messages
from mempool.remote.messages import (
    Allocated,
    AllocMem,
    Call,
    Caller,
    CallReply,
    ControlReply,
    ControlRequest,
    FreeMem,
)
from mempool.remote.requests import settle
from mempool.transports.base import TransportConnection

_GIVE_BACK_SECONDS = 5.0


class ControlClient:
    def __init__(self, connection: TransportConnection, endpoint: str) -> None:
        self.connection = connection
        self.endpoint = endpoint
        self._ids = itertools.count(1)
        self._pending: dict[int, tuple[Caller, ControlRequest, Future[ControlReply]]] = {}
        # Overdue AllocMem requests: the blocks that they get are given back.
        self._late: dict[int, tuple[Caller, Medium]] = {}
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._deadlines: list[tuple[float, int]] = []

    @property
    def idle(self) -> bool:
        """Whether no answer is waited for."""
        return not (self._pending or self._late or self._unsent)

    def send(
        self, caller: Caller, request: ControlRequest, deadline: float, reply: Future[ControlReply]
    ) -> None:
        left_s = deadline - time.monotonic()
        if not left_s > 0:
            settle(reply, DeadlinePassed(self.endpoint, "the deadline had passed before it was sent"))
            return
        number = next(self._ids)
        self._pending[number] = (caller, request, reply)
        heapq.heappush(self._deadlines, (deadline, number))
        call = Call(number, caller, min(left_s, messages.MAX_TIMEOUT_S), request)
        self._unsent.append((number, messages.encode(call)))

    def serve(self) -> list[float]:
        """Sends, reads, and ends overdue requests. Returns in how many seconds something is due again.

        Raises PeerDied, FrameError.
        """
        while (frames := self.connection.receive()) is not None:
            if len(frames) != 1:
                raise FrameError(f"{len(frames)} frames where one was expected")
            self._take(messages.decode_reply(frames[0]))
        while self._unsent and self.connection.opened:
            number, frame = self._unsent[0]
            # Nobody waits for the reply to a request that could not be sent in time.
            if number not in self._pending:
                self._late.pop(number, None)
            elif not self.connection.send([frame]):
                break
            self._unsent.popleft()
        due = (self.connection.tend(), self._expire())
        return [due_s for due_s in due if due_s is not None]

    def close(self, error: MemPoolError) -> None:
        """Pending requests end with `error`."""
        self.connection.close()
        for _, _, reply in self._pending.values():
            settle(reply, error)

    def _expire(self) -> float | None:
        """Seconds to the next deadline."""
        while self._deadlines:
            deadline, number = self._deadlines[0]
            if number in self._pending:
                left = deadline - time.monotonic()
                if left > 0:
                    return left
                self._overdue(number)
            heapq.heappop(self._deadlines)
        return None

    def _overdue(self, number: int) -> None:
        caller, request, reply = self._pending.pop(number)
        if isinstance(request, AllocMem):
            self._late[number] = (caller, request.medium)
        settle(reply, DeadlinePassed(self.endpoint, "no answer in time"))

    def _take(self, answer: CallReply) -> None:
        if (pending := self._pending.pop(answer.id, None)) is not None:
            settle(pending[2], answer.reply)
        elif (late := self._late.pop(answer.id, None)) is not None and isinstance(answer.reply, Allocated):
            caller, medium = late
            free = FreeMem(medium, answer.reply.incarnation, answer.reply.blocks)
            self.send(caller, free, time.monotonic() + _GIVE_BACK_SECONDS, Future())
