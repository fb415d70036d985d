"""Sends blocks of one instance's stores to any number of receivers, on one thread of its own."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import zmq

from mempool.errors import FrameError, MemPoolError, PeerDied, Refused, TransferError
from mempool.flags import TransferMode
from mempool.guard import LoopGuard
from mempool.sockets import MAX_PEERS, SocketLimits, Wakeup, poll_ms
from mempool.store import BlockSource, require_sendable
from mempool.transfer.fabrics import FabricChoice
from mempool.transfer.outgoing import OpenTransfer, OutgoingTransfer, SendFail, SendTask
from mempool.transfer.peer import Peer, PeerSettings, SentCounters
from mempool.transports.base import Pollable
from mempool.transports.peers import PeerTable
from mempool.transports.registry import Transports
from mempool.wire import MAX_PIECE_BYTES

logger = logging.getLogger(__name__)

_WATCH_SECONDS = 0.5
_READY_SECONDS = 0.001
_AFTER_ERROR_MS = 100
_NO_KEY = (
    "encryption is on at the sender and off at the receiver, which gave no key with its ticket: set both "
    "alike (--memserve-encrypt)"
)

Result = TypeVar("Result")


class BlockSender:
    """Owns the sending thread. `bytes_sent` and `messages_sent` count blocks, `bad_frames` broken replies.

    `piece_bytes`: how much one message carries, unless a plane of a block is more. `window_bytes`: how much
    may be unacknowledged at each receiver, unless the receiver grants less. It bounds the staging memory.
    `max_peers`: connections at once. Where there are so many, the one that has been of no use for the longest
    gives way to a new one. `encrypt`: transfers whose ticket came without a key are refused. Those with a key
    are encrypted in any case.
    """

    def __init__(
        self,
        *,
        piece_bytes: int = 2 << 20,
        window_bytes: int = 8 << 20,
        limits: SocketLimits | None = None,
        transports: Transports | None = None,
        max_peers: int = MAX_PEERS,
        encrypt: bool = False,
    ) -> None:
        self._encrypts = encrypt
        self._limits = limits or SocketLimits()
        self._settings = PeerSettings(min(piece_bytes, MAX_PIECE_BYTES), window_bytes, self._limits)
        self._transports = transports or Transports()
        self._fabrics = FabricChoice(self._transports)
        self._inbox: deque[tuple[OutgoingTransfer, SendTask]] = deque()
        self._sent = SentCounters()
        self.bad_frames = 0
        self._guard = LoopGuard("sending blocks")
        self._wakeup = Wakeup()
        self._stopping = False
        self._poller = zmq.Poller()
        self._poller.register(self._wakeup, zmq.POLLIN)
        self._peers = PeerTable(
            self._poller,
            max_peers,
            self._connect,
            partial(self._drop, again=False),
            in_use="receivers are being sent to",
        )
        self._thread = threading.Thread(target=self._run, name="mempool-sender", daemon=True)
        self._thread.start()

    def open(
        self,
        store: BlockSource,
        endpoint: str,
        ticket: int,
        on_end: Callable[[TransferError | None], None],
        *,
        mode: TransferMode = TransferMode.AGGREGATED,
        key: bytes | None = None,
        fabrics: Sequence[str] = (),
    ) -> OutgoingTransfer:
        """Starts a transfer of blocks of `store` to the receiver at `endpoint`, which named it `ticket`.

        `key`: what came with the ticket; None where the receiver wants blocks in clear. `fabrics`: endpoints
        of the same receiver, best first, of which the first that works here is used instead.

        The receiver is watched from now on. Raises MemPoolError for a store whose blocks no message carries.
        """
        require_sendable(store.layout)
        endpoints = self._fabrics.usable(fabrics, endpoint)
        return OutgoingTransfer(self._submit, store, endpoints, ticket, on_end, mode, key)

    @property
    def bytes_sent(self) -> int:
        return self._sent.bytes

    @property
    def fabric_fallbacks(self) -> int:
        """How often a receiver's better endpoint turned out to be of no use."""
        return self._fabrics.fallbacks

    @property
    def errors(self) -> int:
        """Unexpected ones."""
        return self._guard.errors

    @property
    def messages_sent(self) -> int:
        return self._sent.messages

    def close(self) -> None:
        """Stops the thread; transfers under way end without a callback."""
        self._stopping = True
        self._wakeup.set()
        self._thread.join()
        self._wakeup.close()

    def _submit(self, transfer: OutgoingTransfer, work: SendTask) -> None:
        self._inbox.append((transfer, work))
        self._wakeup.set()

    def _run(self) -> None:
        timeout: int | None = None
        while not self._stopping:
            ready = {pollable for pollable, _ in self._poller.poll(timeout)}
            self._wakeup.clear()
            timeout = _AFTER_ERROR_MS
            with self._guard:
                while self._inbox:
                    self._accept(*self._inbox.popleft())
                timeout = self._serve_peers(ready)
        for peer in self._peers.values():
            peer.close()

    def _accept(self, transfer: OutgoingTransfer, work: SendTask) -> None:
        if isinstance(work, OpenTransfer):
            if self._encrypts and not transfer.has_key:
                refused = Refused(transfer.endpoint, _NO_KEY)
                transfer.end(refused)
                self._report_failure(transfer, refused)
                return
            self._begin(transfer, work)
        elif transfer.endpoint in self._peers:
            self._peers[transfer.endpoint].put(transfer, work)

    def _begin(self, transfer: OutgoingTransfer, work: SendTask) -> None:
        try:
            self._peers.use(transfer.endpoint).put(transfer, work)
        except Exception as error:
            # The endpoint is a peer's own word: there is no list of what connecting to it may raise.
            self._count(error)
            failed = transfer.endpoint
            if transfer.turn_to_next():
                self._fabrics.failed(failed, error)
                self._begin(transfer, work)
            else:
                transfer.end(PeerDied(transfer.endpoint, f"cannot connect: {error}"))

    def _serve_peers(self, ready: set[Pollable]) -> int | None:
        """What all windows have room for, one message to each peer in turn; returns for how long nothing has
        to be done (ms).
        """
        due: list[float | None] = []
        for peer in list(self._peers.values()):
            there_is_more = not ready.isdisjoint(peer.connection.pollables)
            due.append(self._guarded(peer, partial(peer.attend, there_is_more)))
        busy = list(self._peers.values())
        while busy and not self._inbox:
            busy = [peer for peer in busy if self._guarded(peer, peer.advance)]
        peers = self._peers.values()
        if any(peer.waits_for_pages for peer in peers):
            due.append(_READY_SECONDS)
        if any(peer.waiting for peer in peers):
            due.append(min(_WATCH_SECONDS, self._limits.silence_s / 4))
        return poll_ms(*due)

    def _guarded(self, peer: Peer, act: Callable[[], Result]) -> Result | None:
        """None where the peer was dropped instead."""
        try:
            return act()
        except TransferError as error:
            self._drop(peer, error)
        except FrameError as error:
            self.bad_frames += 1
            self._drop(peer, PeerDied(peer.endpoint, f"bad frame: {error}"))
        except Exception as error:
            self._guard.report(error)
            self._drop(peer, PeerDied(peer.endpoint, f"cannot send: {error}"))
        return None

    def _connect(self, endpoint: str) -> Peer:
        connection = self._transports.connect(endpoint, self._limits)
        return Peer(connection, endpoint, self._settings, self._sent)

    def _drop(self, peer: Peer, error: TransferError, *, again: bool = True) -> None:
        """`again`: the receiver hears of it on another connection."""
        self._peers.forget(peer)
        transfers = peer.close()
        if again and not peer.welcomed and not isinstance(error, Refused):
            transfers -= self._fall_back(peer, error)
        if transfers:
            logger.warning("%s; %d transfers fail", error, len(transfers))
        for transfer in transfers:
            transfer.end(error)
            if again and peer.reached:
                self._report_failure(transfer, error)

    def _fall_back(self, peer: Peer, error: TransferError) -> set[OutgoingTransfer]:
        """Sends by another way what was to be sent there, and returns whose that was."""
        unsent = peer.unsent
        turned = {transfer for transfer in {each for each, _ in unsent} if transfer.turn_to_next()}
        if turned:
            self._fabrics.failed(peer.endpoint, error.cause)
        for transfer, work in unsent:
            if transfer in turned:
                self._accept(transfer, work)
        return turned

    def _report_failure(self, transfer: OutgoingTransfer, error: TransferError) -> None:
        """It may be alive and only its connection gone: on a new one it hears of it, instead of waiting."""
        # Not in the place of a peer that may be next to be served.
        if self._peers.full:
            return
        try:
            self._peers.use(transfer.endpoint).put(transfer, SendFail(error.cause))
        except Exception as again:
            self._count(again)
            logger.debug("%s cannot hear of the failure: %s", transfer.endpoint, again)

    def _count(self, error: Exception) -> None:
        if not isinstance(error, MemPoolError | OSError):
            self._guard.report(error)
