"""The sender's connection to one receiver."""

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mempool import wire
from mempool.errors import FrameError, PeerDied, Refused, TransferError
from mempool.sockets import SocketLimits
from mempool.store import BlockSource
from mempool.transfer.cut import Piece
from mempool.transfer.outgoing import OpenTransfer, OutgoingTransfer, SendFail, SendFinish, SendTask
from mempool.transfer.send_queues import Lane, Message, SendQueues
from mempool.transfer.staging import StagingMemory, StagingRing
from mempool.transports.base import Buffer, TransportConnection

logger = logging.getLogger(__name__)

# Also a bound where messages are small: far below what the connection queues.
_MAX_UNANSWERED = 256


@dataclass(frozen=True)
class PeerSettings:
    piece_bytes: int
    window_bytes: int
    limits: SocketLimits


@dataclass
class SentCounters:
    bytes: int = 0
    messages: int = 0

    def count(self, size: int) -> None:
        """A message with `size` bytes of blocks."""
        self.bytes += size
        self.messages += 1


class _Unanswered(NamedTuple):
    seq: int
    transfer: OutgoingTransfer
    payload_bytes: int
    ring: StagingRing | None
    is_finish: bool


class Peer:
    """The sender's end of the connection to one receiver. It belongs to the sender's thread.

    `attend` and `advance` raise TransferError when the connection is of no more use, and FrameError when the
    receiver breaks the protocol. `sent` counts the bytes and messages of blocks.
    """

    def __init__(
        self, connection: TransportConnection, endpoint: str, settings: PeerSettings, sent: SentCounters
    ) -> None:
        self.endpoint = endpoint
        self.connection = connection
        self._settings = settings
        self._sent = sent
        self._greeted = False
        self._window: int | None = None
        self._lanes = SendQueues(settings.piece_bytes)
        self._staging: dict[BlockSource, StagingMemory] = {}
        self._in_place: dict[BlockSource, bool] = {}
        self._open: set[OutgoingTransfer] = set()
        self._unanswered: deque[_Unanswered] = deque()
        self._bytes_under_way = 0
        self._seq = 0
        self._heard = time.monotonic()

    @property
    def waiting(self) -> bool:
        """Whether silence from this peer means anything."""
        return bool(self._unanswered) or self._window is None

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way there, or queued."""
        return not self._unanswered and self._lanes.empty

    @property
    def waits_for_pages(self) -> bool:
        return self._lanes.wait_for_pages

    @property
    def reached(self) -> bool:
        """Whether there has ever been a receiver at the endpoint."""
        return self.connection.opened

    @property
    def welcomed(self) -> bool:
        """Whether the receiver takes messages here. Nothing of any transfer is sent before."""
        return self._window is not None

    def put(self, transfer: OutgoingTransfer, work: SendTask) -> None:
        transfer.over_private = self.connection.private
        if isinstance(work, OpenTransfer):
            self._open.add(transfer)
        elif isinstance(work, SendFail):
            self._open.discard(transfer)
        self._lanes.put(transfer, work)

    def attend(self, there_is_more: bool) -> float | None:
        """Reads the receiver's replies, if there are any. Returns in how many seconds to call it again."""
        if there_is_more:
            self._read()
        self._require_signs()
        return self.connection.tend()

    def _read(self) -> None:
        while (frames := self.connection.receive()) is not None:
            self._heard = time.monotonic()
            if len(frames) != 1:
                raise FrameError(f"{len(frames)} frames where one was expected")
            self._apply(wire.decode_to_sender(frames[0]))
        if self.connection.opened and not self._greeted:
            self._greeted = True
            self._heard = time.monotonic()
            self._send([wire.encode(wire.ChannelHello(wire.VERSION))])

    def _require_signs(self) -> None:
        """Raises PeerDied where the receiver has been silent for too long."""
        limits = self._settings.limits
        limit = limits.silence_s if self._greeted else limits.connect_s
        if self.waiting and time.monotonic() - self._heard > limit:
            raise PeerDied(self.endpoint, f"silent for {limit:g} s")

    def advance(self) -> bool:
        """Sends the next message if the window has room; returns whether there may be more to send now."""
        if self._window is None:
            return False
        for lane in self._lanes:
            if lane.is_over:
                self._lanes.drop(lane.transfer)
                continue
            try:
                head = lane.head()
            except Exception as error:
                self._give_up(lane.transfer, error)
                return True
            if head is not None and not (isinstance(head, SendFinish) and self._reads_from(lane.transfer)):
                return self._serve(lane, head)
        return False

    @property
    def unsent(self) -> list[tuple[OutgoingTransfer, SendTask]]:
        """What was put here and not begun, in order: all, until it is `welcomed`."""
        return self._lanes.work()

    def close(self) -> set[OutgoingTransfer]:
        """Closes the connection, and lets its memory go; returns the transfers that had not ended."""
        self.connection.close()
        self._staging.clear()
        return self._open

    def _apply(self, message: wire.ToSender) -> None:
        if isinstance(message, wire.Bye):
            raise Refused(self.endpoint, message.reason)
        if isinstance(message, wire.Welcome):
            if message.version != wire.VERSION:
                raise Refused(self.endpoint, wire.other_version(message.version))
            if self._window is not None or not self._greeted:
                raise FrameError("a welcome where none was expected")
            self._window = min(message.window_bytes, self._settings.window_bytes)
            return
        if not self._unanswered or self._unanswered[0].seq != message.seq:
            raise FrameError(f"an answer to message {message.seq}, which is not the next to be answered")
        answered = self._unanswered.popleft()
        if answered.transfer.ticket != message.ticket:
            raise FrameError(f"an answer to message {message.seq} names another ticket")
        message = answered.transfer.opened(message)
        self._bytes_under_way -= answered.payload_bytes
        if answered.ring is not None:
            answered.ring.give_back_first()
        if isinstance(message, wire.Refuse):
            self._end(answered.transfer, Refused(self.endpoint, message.reason))
        elif answered.is_finish:
            self._end(answered.transfer, None)

    def _reads_from(self, transfer: OutgoingTransfer) -> bool:
        """Whether blocks of the transfer are being sent from where they are stored.

        Its finish has to wait for them. Sent earlier, it would declare blocks complete that the owner may
        overwrite, once it has given the transfer up, before they have left.
        """
        return any(
            each.payload_bytes and each.ring is None and each.transfer is transfer
            for each in self._unanswered
        )

    def _end(self, transfer: OutgoingTransfer, error: TransferError | None) -> None:
        self._open.discard(transfer)
        transfer.end(error)

    def _give_up(self, transfer: OutgoingTransfer, error: Exception) -> None:
        logger.error("reading blocks for %s", self.endpoint, exc_info=error)
        self._end(transfer, TransferError(self.endpoint, f"cannot read the blocks: {error}"))
        self._lanes.put(transfer, SendFail(wire.short(f"the sender cannot read its blocks: {error}")))

    def _serve(self, lane: Lane, head: Message) -> bool:
        if len(self._unanswered) >= _MAX_UNANSWERED:
            return False
        if isinstance(head, Piece):
            return self._send_piece(lane, head)
        transfer = lane.transfer
        message: wire.Begin | wire.Finish | wire.Fail
        if isinstance(head, OpenTransfer):
            message = wire.Begin(transfer.ticket, self._seq)
        elif isinstance(head, SendFinish):
            message = wire.Finish(transfer.ticket, self._seq, *head)
        else:
            message = wire.Fail(transfer.ticket, self._seq, head.reason)
        self._send([transfer.header(message)])
        self._sent_now(transfer, is_finish=isinstance(head, SendFinish))
        self._lanes.served(lane)
        return True

    def _send_piece(self, lane: Lane, piece: Piece) -> bool:
        assert self._window is not None
        transfer = lane.transfer
        size = len(piece.pages) * transfer.store.layout.row_bytes(piece.planes)
        if self._bytes_under_way and self._bytes_under_way + size > self._window:
            return False
        planes = piece.planes
        where = piece.first, len(piece.pages), planes.start, len(planes)
        blocks = wire.Blocks(transfer.ticket, self._seq, *where, piece.again)
        ring: StagingRing | None = None
        try:
            in_place = self._sends_in_place(transfer.store)
            wanted = in_place or transfer.sealer is not None
            parts = transfer.store.views(piece.pages, planes) if wanted else None
            if parts is None or transfer.sealer is not None:
                staging = self._staging_of(transfer.store)
                slot = staging.ring.take(size)
                if slot is None:
                    return False
                ring = staging.ring
                header, parts = _staged(transfer, piece, blocks, parts, slot, staging)
            else:
                header = wire.encode(blocks)
        except Exception as error:
            if ring is not None:
                ring.give_back_last()
            self._give_up(transfer, error)
            return True
        # No copy: neither slot nor blocks are written to before the receiver has answered.
        self._send([header, *parts])
        self._sent_now(transfer, size, ring)
        self._sent.count(size)
        self._lanes.served(lane)
        return True

    def _sent_now(
        self,
        transfer: OutgoingTransfer,
        payload_bytes: int = 0,
        ring: StagingRing | None = None,
        *,
        is_finish: bool = False,
    ) -> None:
        if not self._unanswered:
            self._heard = time.monotonic()
        self._unanswered.append(_Unanswered(self._seq, transfer, payload_bytes, ring, is_finish))
        self._bytes_under_way += payload_bytes
        self._seq += 1

    def _send(self, frames: list[Buffer]) -> None:
        if not self.connection.send(frames):
            raise PeerDied(self.endpoint, "takes no more messages")

    def _sends_in_place(self, store: BlockSource) -> bool:
        """Whether the connection takes blocks from where they are stored."""
        memory = self.connection.memory
        if memory is None:
            return True
        if store not in self._in_place:
            self._in_place[store] = memory.covers(store.regions)
        return self._in_place[store]

    def _staging_of(self, store: BlockSource) -> StagingMemory:
        if store not in self._staging:
            assert self._window is not None
            largest = max(self._settings.piece_bytes, *store.layout.plane_bytes)
            self._staging[store] = StagingMemory(store, self._window + 2 * largest, self.connection.memory)
        return self._staging[store]


def _staged(
    transfer: OutgoingTransfer,
    piece: Piece,
    blocks: wire.Blocks,
    parts: list[memoryview] | None,
    slot: torch.Tensor,
    staging: StagingMemory,
) -> tuple[bytes, list[memoryview]]:
    """Header and payload of a message whose payload is in `slot`: gathered, or encrypted, or both."""
    sealer, place = transfer.sealer, memoryview(slot.numpy())
    if parts is None:
        plain = slot if sealer is None else staging.scratch(len(slot))
        transfer.store.gather(piece.pages, plain.view(len(piece.pages), -1), piece.planes)
        parts = [memoryview(plain.numpy())]
    header = blocks if sealer is None else sealer.seal(blocks, parts, place)
    return wire.encode(header), [place]
