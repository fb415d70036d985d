"""The sender's connection to one receiver."""

import logging
import time
from collections import deque
from typing import NamedTuple

import torch
import zmq
from zmq.utils.monitor import recv_monitor_message

from mempool import wire
from mempool.errors import FrameError, PeerDied, Refused, TransferError
from mempool.paged import PagedBuffers
from mempool.sockets import SILENCE_IS_DEATH_SECONDS, connect_dealer
from mempool.transfer.outgoing import (
    OutgoingTransfer,
    SendBlocks,
    SendFail,
    SendFinish,
    Work,
)

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0

_LOST = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class _Unacknowledged(NamedTuple):
    transfer: OutgoingTransfer
    slot: torch.Tensor | None
    is_finish: bool


class Peer:
    """Belongs to the sender's thread. `read` and `advance` raise PeerDied when the connection is no more."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        buffers: PagedBuffers,
        piece_blocks: int,
        window: int,
    ) -> None:
        self.endpoint = endpoint
        self.bytes_sent = 0
        self.connected = False
        self.not_ready = False
        self.socket, self.monitor = connect_dealer(context, endpoint, zmq.EVENT_HANDSHAKE_SUCCEEDED | _LOST)
        self._buffers = buffers
        self._piece_blocks = piece_blocks
        self._slots_left = window
        self._free_slots: list[torch.Tensor] = []
        self._queue: deque[tuple[OutgoingTransfer, Work]] = deque()
        self._open: set[OutgoingTransfer] = set()
        self._unacknowledged: dict[int, _Unacknowledged] = {}
        self._seq = 0
        self._heard = time.monotonic()

    @property
    def waiting(self) -> bool:
        """Whether silence from this peer means anything."""
        return bool(self._unacknowledged) or not self.connected

    def watch(self, transfer: OutgoingTransfer) -> None:
        self._open.add(transfer)

    def put(self, transfer: OutgoingTransfer, work: Work) -> None:
        if isinstance(work, SendFail):
            # What else is queued for it is dropped anyway, and the receiver is to know at once.
            self._queue.appendleft((transfer, work))
        else:
            self._queue.append((transfer, work))

    def read(self) -> None:
        """Takes in what the peer said and what became of the connection."""
        while self.monitor.poll(0):
            event = recv_monitor_message(self.monitor)
            if event["event"] & _LOST:
                raise PeerDied(self.endpoint, "connection closed" if self.connected else "cannot connect")
            self.connected = True
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._heard = time.monotonic()
            self._apply(frames)
        limit = SILENCE_IS_DEATH_SECONDS if self.connected else CONNECT_SECONDS
        if self.waiting and time.monotonic() - self._heard > limit:
            raise PeerDied(self.endpoint, f"silent for {limit:g} s")

    def advance(self) -> bool:
        """Sends the next message if the window has room; returns whether there may be more to send now."""
        self.not_ready = False
        while self.connected and self._queue:
            transfer, work = self._queue[0]
            if isinstance(work, SendFail):
                self._queue.popleft()
                self._open.discard(transfer)
                self._send(wire.Fail(transfer.ticket, work.reason))
            elif transfer.ended:
                self._queue.popleft()
            elif isinstance(work, SendFinish):
                self._queue.popleft()
                self._send_tracked(transfer, None, wire.Finish(transfer.ticket, self._seq, *work))
            elif work.ready is not None and not work.ready():
                self.not_ready = True
                return False
            else:
                slot = self._take_slot()
                if slot is None:
                    return False
                self._send_piece(transfer, work, slot)
                return True
        return False

    def close(self) -> set[OutgoingTransfer]:
        """Closes the connection; returns the transfers that had not ended."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)
        return self._open

    def _apply(self, frames: list[bytes]) -> None:
        if len(frames) != 1:
            raise FrameError(f"{len(frames)} frames where one was expected")
        message = wire.decode_to_sender(frames[0])
        entry = self._unacknowledged.pop(message.seq, None)
        if entry is None or entry.transfer.ticket != message.ticket:
            raise FrameError(f"acknowledgement of message {message.seq}, which is not under way")
        if entry.slot is not None:
            self._free_slots.append(entry.slot)
        if isinstance(message, wire.Refuse):
            self._end(entry.transfer, Refused(self.endpoint, message.reason))
        elif entry.is_finish:
            self._end(entry.transfer, None)

    def _end(self, transfer: OutgoingTransfer, error: TransferError | None) -> None:
        self._open.discard(transfer)
        transfer.end(error)

    def _take_slot(self) -> torch.Tensor | None:
        if self._free_slots:
            return self._free_slots.pop()
        if not self._slots_left:
            return None
        self._slots_left -= 1
        return self._buffers.host_blocks(self._piece_blocks)

    def _send_piece(self, transfer: OutgoingTransfer, work: SendBlocks, slot: torch.Tensor) -> None:
        pages, rest = work.pages[: self._piece_blocks], work.pages[self._piece_blocks :]
        if len(rest):
            self._queue[0] = (transfer, SendBlocks(rest, work.first + len(pages), None))
        else:
            self._queue.popleft()
        blocks = slot[: len(pages)]
        try:
            self._buffers.gather(pages, blocks)
        except Exception as error:
            logger.exception("reading %d blocks for %s", len(pages), self.endpoint)
            self._free_slots.append(slot)
            self._send(wire.Fail(transfer.ticket, wire.short(f"the sender cannot read its blocks: {error}")))
            self._end(transfer, TransferError(self.endpoint, f"cannot read the blocks: {error}"))
            return
        header = wire.Blocks(transfer.ticket, self._seq, work.first, len(pages))
        self._send_tracked(transfer, slot, header, blocks)
        self.bytes_sent += blocks.nbytes

    def _send_tracked(
        self,
        transfer: OutgoingTransfer,
        slot: torch.Tensor | None,
        message: wire.Blocks | wire.Finish,
        blocks: torch.Tensor | None = None,
    ) -> None:
        if not self._unacknowledged:
            self._heard = time.monotonic()
        self._unacknowledged[self._seq] = _Unacknowledged(transfer, slot, isinstance(message, wire.Finish))
        self._seq += 1
        self._send(message, blocks)

    def _send(self, message: wire.ToReceiver, blocks: torch.Tensor | None = None) -> None:
        frames: list[bytes | memoryview] = [wire.encode(message)]
        if blocks is not None:
            # No copy: the slot is not written again before the receiver has acknowledged its bytes.
            frames.append(memoryview(blocks.view(-1).numpy()))
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            raise PeerDied(self.endpoint, "takes no more messages") from None
