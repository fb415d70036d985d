"""Sends blocks of one instance's buffers to any number of receivers, on one thread of its own."""

import logging
import threading
from collections import deque
from collections.abc import Callable

import zmq

from mempool.errors import FrameError, PeerDied, TransferError
from mempool.paged import PagedBuffers
from mempool.sockets import Wakeup, new_context
from mempool.transfer.outgoing import Open, OutgoingTransfer, SendFail, Work
from mempool.transfer.peer import Peer
from mempool.wire import MAX_PIECE_BYTES

logger = logging.getLogger(__name__)

_WATCH_MILLISECONDS = 500
_READY_MILLISECONDS = 1


class BlockSender:
    """
    `piece_bytes`: about how much one message carries; `window`: how many of them may be unacknowledged at
    each receiver, which bounds its staging memory to `window * piece_bytes`.
    """

    def __init__(self, buffers: PagedBuffers, *, piece_bytes: int = 4 << 20, window: int = 4) -> None:
        self._buffers = buffers
        self._piece_blocks = max(1, min(piece_bytes, MAX_PIECE_BYTES) // buffers.layout.block_bytes)
        self._window = window
        self._context = new_context()
        self._inbox: deque[tuple[OutgoingTransfer, Open | Work]] = deque()
        self._peers: dict[str, Peer] = {}
        self._bytes_sent_to_closed = 0
        self._wakeup = Wakeup()
        self._stopping = False
        self._poller = zmq.Poller()
        self._poller.register(self._wakeup, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name="mempool-sender", daemon=True)
        self._thread.start()

    def open(
        self, endpoint: str, ticket: int, on_end: Callable[[TransferError | None], None]
    ) -> OutgoingTransfer:
        """Starts a transfer to the receiver at `endpoint`, which named it `ticket`; watches that receiver."""
        return OutgoingTransfer(self._submit, endpoint, ticket, on_end)

    @property
    def bytes_sent(self) -> int:
        return self._bytes_sent_to_closed + sum(peer.bytes_sent for peer in list(self._peers.values()))

    def close(self) -> None:
        """Stops the thread; transfers under way end without a callback."""
        self._stopping = True
        self._wakeup.set()
        self._thread.join()
        self._wakeup.close()
        self._context.term()

    def _submit(self, transfer: OutgoingTransfer, work: Open | Work) -> None:
        self._inbox.append((transfer, work))
        self._wakeup.set()

    def _run(self) -> None:
        timeout: int | None = None
        while not self._stopping:
            self._poller.poll(timeout)
            self._wakeup.clear()
            while self._inbox:
                self._accept(*self._inbox.popleft())
            timeout = self._serve_peers()
        for peer in self._peers.values():
            peer.close()

    def _accept(self, transfer: OutgoingTransfer, work: Open | Work) -> None:
        if isinstance(work, Open):
            try:
                self._peer(transfer.endpoint).watch(transfer)
            except (zmq.ZMQError, OSError) as error:
                transfer.end(PeerDied(transfer.endpoint, f"cannot connect: {error}"))
        elif transfer.endpoint in self._peers:
            self._peers[transfer.endpoint].put(transfer, work)

    def _serve_peers(self) -> int | None:
        """One message to each peer in turn; returns for how long nothing has to be done (ms)."""
        busy = waiting = not_ready = False
        for peer in list(self._peers.values()):
            try:
                peer.read()
                busy |= peer.advance()
                waiting |= peer.waiting
                not_ready |= peer.not_ready
            except PeerDied as error:
                self._drop(peer, error)
            except FrameError as error:
                self._drop(peer, PeerDied(peer.endpoint, f"bad frame: {error}"))
            except Exception as error:
                logger.exception("sending to %s", peer.endpoint)
                self._drop(peer, PeerDied(peer.endpoint, f"cannot send: {error}"))
        if busy:
            return 0
        if not_ready:
            return _READY_MILLISECONDS
        return _WATCH_MILLISECONDS if waiting else None

    def _peer(self, endpoint: str) -> Peer:
        peer = self._peers.get(endpoint)
        if peer is None:
            peer = Peer(self._context, endpoint, self._buffers, self._piece_blocks, self._window)
            self._peers[endpoint] = peer
            self._poller.register(peer.socket, zmq.POLLIN)
            self._poller.register(peer.monitor, zmq.POLLIN)
        return peer

    def _drop(self, peer: Peer, error: PeerDied) -> None:
        del self._peers[peer.endpoint]
        self._bytes_sent_to_closed += peer.bytes_sent
        self._poller.unregister(peer.socket)
        self._poller.unregister(peer.monitor)
        transfers = peer.close()
        if transfers:
            logger.warning("%s; %d transfers fail", error, len(transfers))
        for transfer in transfers:
            transfer.end(error)
            if peer.connected:
                self._tell_anew(transfer, error)

    def _tell_anew(self, transfer: OutgoingTransfer, error: PeerDied) -> None:
        """It may be alive and only its connection gone: on a new one it hears of it, instead of waiting."""
        try:
            self._peer(transfer.endpoint).put(transfer, SendFail(error.cause))
        except (zmq.ZMQError, OSError) as again:
            logger.debug("%s cannot be told: %s", transfer.endpoint, again)
