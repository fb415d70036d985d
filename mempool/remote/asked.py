"""The connection to one instance that is asked, and what it was asked. For the control thread alone."""

import heapq
import itertools
import time
from collections import deque
from concurrent.futures import Future

from mempool.address import Medium
from mempool.errors import DeadlinePassed, FrameError, MemPoolError
from mempool.remote import messages
from mempool.remote.messages import Allocated, AllocMem, Answer, Ask, Call, Caller, FreeMem, Reply
from mempool.remote.requests import settle
from mempool.transports.base import Connection

_GIVE_BACK_SECONDS = 5.0


class AskedPeer:
    def __init__(self, connection: Connection, endpoint: str) -> None:
        self.connection = connection
        self.endpoint = endpoint
        self._ids = itertools.count(1)
        self._asked: dict[int, tuple[Caller, Ask, Future[Reply]]] = {}
        # AllocMem that is overdue: what it gets is given back.
        self._late: dict[int, tuple[Caller, Medium]] = {}
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._deadlines: list[tuple[float, int]] = []

    def ask(self, caller: Caller, ask: Ask, deadline: float, reply: Future[Reply]) -> None:
        seconds = deadline - time.monotonic()
        if not seconds > 0:
            settle(reply, DeadlinePassed(self.endpoint, "the deadline had passed before it was asked"))
            return
        number = next(self._ids)
        self._asked[number] = (caller, ask, reply)
        heapq.heappush(self._deadlines, (deadline, number))
        call = Call(number, caller, min(seconds, messages.MAX_SECONDS), ask)
        self._unsent.append((number, messages.encode(call)))

    def serve(self) -> list[float]:
        """Sends, reads, ends what is overdue; returns in how many seconds there is something to do again.

        Raises PeerDied, FrameError.
        """
        while (frames := self.connection.receive()) is not None:
            if len(frames) != 1:
                raise FrameError(f"{len(frames)} frames where one was expected")
            self._take(messages.decode_answer(frames[0]))
        while self._unsent and self.connection.opened:
            number, frame = self._unsent[0]
            # Nobody waits for the answer to what could not be sent in time.
            if number not in self._asked:
                self._late.pop(number, None)
            elif not self.connection.send([frame]):
                break
            self._unsent.popleft()
        due = (self.connection.tend(), self._expire())
        return [seconds for seconds in due if seconds is not None]

    def close(self, error: MemPoolError) -> None:
        """What was asked and not answered ends with `error`."""
        self.connection.close()
        for _, _, reply in self._asked.values():
            settle(reply, error)

    def _expire(self) -> float | None:
        """Seconds to the next deadline."""
        while self._deadlines:
            deadline, number = self._deadlines[0]
            if number in self._asked:
                left = deadline - time.monotonic()
                if left > 0:
                    return left
                self._overdue(number)
            heapq.heappop(self._deadlines)
        return None

    def _overdue(self, number: int) -> None:
        caller, ask, reply = self._asked.pop(number)
        if isinstance(ask, AllocMem):
            self._late[number] = (caller, ask.medium)
        settle(reply, DeadlinePassed(self.endpoint, "no answer in time"))

    def _take(self, answer: Answer) -> None:
        if (asked := self._asked.pop(answer.id, None)) is not None:
            settle(asked[2], answer.reply)
        elif (late := self._late.pop(answer.id, None)) is not None and isinstance(answer.reply, Allocated):
            caller, medium = late
            free = FreeMem(medium, answer.reply.incarnation, answer.reply.blocks)
            self.ask(caller, free, time.monotonic() + _GIVE_BACK_SECONDS, Future())
