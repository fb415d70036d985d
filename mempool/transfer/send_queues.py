"""The messages queued for one receiver: a lane for each transfer, served in turn."""

import time
from collections import deque
from collections.abc import Iterator

from mempool.transfer.cut import Piece, cut
from mempool.transfer.outgoing import (
    OpenTransfer,
    OutgoingTransfer,
    SendBlocks,
    SendFail,
    SendFinish,
    SendTask,
)

Message = OpenTransfer | Piece | SendFinish | SendFail

_ASK_AGAIN_SECONDS = 0.001


class Lane:
    """The queued messages of one transfer, in order."""

    def __init__(self, transfer: OutgoingTransfer, piece_bytes: int) -> None:
        self.transfer = transfer
        self.waits_for_pages = False
        self._piece_bytes = piece_bytes
        self._work: deque[SendTask] = deque()
        self._pieces: Iterator[Piece] = iter(())
        self._piece: Piece | None = None
        self._ask_again = 0.0

    @property
    def empty(self) -> bool:
        return self._piece is None and not self._work

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is to be sent. The message that the transfer failed still is."""
        fails = bool(self._work) and isinstance(self._work[0], SendFail)
        return self.empty or (self.transfer.ended and not fails)

    @property
    def has_blocks_next(self) -> bool:
        return self._piece is not None or (bool(self._work) and isinstance(self._work[0], SendBlocks))

    @property
    def work(self) -> list[SendTask]:
        """What was put and not begun."""
        return list(self._work)

    def put(self, work: SendTask) -> None:
        self._work.append(work)

    def head(self) -> Message | None:
        """The next message. None: there is none, or its pages are not ready."""
        while self._piece is None and self._work:
            work = self._work[0]
            if not isinstance(work, SendBlocks):
                return work
            if not self._is_ready(work):
                return None
            self._work.popleft()
            self._pieces = cut(work.blocks, self.transfer.store.layout, self.transfer.mode, self._piece_bytes)
            self._piece = next(self._pieces, None)
        return self._piece

    def pop(self) -> None:
        if self._piece is not None:
            self._piece = next(self._pieces, None)
        else:
            self._work.popleft()

    def _is_ready(self, work: SendBlocks) -> bool:
        now = time.monotonic()
        if work.ready is None:
            return True
        if self.waits_for_pages and now < self._ask_again:
            return False
        self.waits_for_pages = not work.ready()
        self._ask_again = now + _ASK_AGAIN_SECONDS
        return not self.waits_for_pages


class SendQueues:
    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        # In the order of their turns.
        self._lanes: dict[OutgoingTransfer, Lane] = {}

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    @property
    def empty(self) -> bool:
        return not self._lanes

    @property
    def wait_for_pages(self) -> bool:
        return any(lane.waits_for_pages for lane in self._lanes.values())

    def put(self, transfer: OutgoingTransfer, work: SendTask) -> None:
        if isinstance(work, SendFail):
            # Nothing else of the transfer is to be sent, and the receiver must know at once.
            lane = Lane(transfer, self._piece_bytes)
            self._lanes.pop(transfer, None)
            self._lanes = {transfer: lane, **self._lanes}
        elif not transfer.ended:
            lane = self._lanes.setdefault(transfer, Lane(transfer, self._piece_bytes))
        else:
            return
        lane.put(work)

    def work(self) -> list[tuple[OutgoingTransfer, SendTask]]:
        """What was put and not begun, in order."""
        return [(transfer, work) for transfer, lane in self._lanes.items() for work in lane.work]

    def served(self, lane: Lane) -> None:
        """Its head was sent. A lane with more blocks goes to the end of the line."""
        lane.pop()
        if lane.empty:
            self.drop(lane.transfer)
        elif lane.has_blocks_next:
            del self._lanes[lane.transfer]
            self._lanes[lane.transfer] = lane

    def drop(self, transfer: OutgoingTransfer) -> None:
        self._lanes.pop(transfer, None)
