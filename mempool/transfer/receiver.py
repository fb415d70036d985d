"""Receives blocks into the stores of one instance, on one thread of its own."""

import logging
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import torch
import zmq

from mempool import wire
from mempool.device import DeviceEvent
from mempool.errors import FrameError, MemPoolError, PeerDied, Refused, TransferError
from mempool.guard import LoopGuard
from mempool.sockets import SocketLimits, Wakeup, poll_ms
from mempool.store import BlockStore, require_sendable
from mempool.transfer.incoming import IncomingTransfer
from mempool.transfer.landing import BlockSink, DiscardSink, SealedSink
from mempool.transports.base import Buffer, Disconnected, IncomingMessage, PayloadSink
from mempool.transports.joined import listen_at
from mempool.transports.registry import Transports

logger = logging.getLogger(__name__)

_SENDER = "the sender"
# What a message of ours carries at most, unless one plane of a block is more.
_STAGING_BYTES = 2 << 20
_AFTER_ERROR_MS = 100
# So that a flood does not keep the thread from looking at the clock.
_MESSAGES_A_TURN = 1024


class BlockReceiver:
    """Listens at `url`; `endpoint` is what senders connect to. Raises MemPoolError where it cannot.

    `fabrics`: other URLs to listen at, best first, on fabrics that not every sender has. One that this host
    does not have is left out, with a line in the log. The attribute has their endpoints: senders try them
    before `endpoint`.

    `window_bytes`: how much each connection may have sent without an acknowledgement. `encrypt`: whether
    every ticket has a key, under which alone its blocks are taken, unless they do not leave this host's
    memory.

    `bytes_received` counts what landed, `bad_frames` messages that break the protocol, each of which ends its
    connection, `strays` messages for transfers that are not expected.
    """

    def __init__(
        self,
        url: str,
        *,
        window_bytes: int = 8 << 20,
        limits: SocketLimits | None = None,
        transports: Transports | None = None,
        encrypt: bool = False,
        fabrics: Sequence[str] = (),
    ) -> None:
        self._encrypts = encrypt
        self._listener, self.fabrics = listen_at(
            transports or Transports(), fabrics, url, limits or SocketLimits(), self._place
        )
        self.endpoint = self._listener.endpoint
        self.bytes_received = 0
        self.bad_frames = 0
        self.strays = 0
        self._guard = LoopGuard("receiving blocks")
        self._window_bytes = window_bytes
        self._expected: dict[int, IncomingTransfer] = {}
        self._tickets_of: defaultdict[bytes, set[int]] = defaultdict(set)
        self._welcomed: set[bytes] = set()
        self._staging: defaultdict[bytes, dict[BlockStore, torch.Tensor]] = defaultdict(dict)
        # Held while bytes are written: whoever has withdrawn a ticket may reuse its pages.
        self._lock = threading.RLock()
        self._wakeup = Wakeup()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mempool-receiver", daemon=True)
        self._thread.start()

    def expect(
        self,
        store: BlockStore,
        pages: torch.Tensor,
        on_done: Callable[[bytes], None],
        on_failed: Callable[[TransferError], None],
        after: DeviceEvent | None = None,
        key: bytes | None = None,
    ) -> int:
        """Admits one transfer into `pages` (int64 `[n]`, host) of `store`; returns its ticket. Never blocks.

        On CUDA nothing is written to the pages before the event `after`. `key`: what `new_key` gave, to be
        handed to the sender with the ticket, and to nobody else.

        One of the callbacks is called once, on the receiver's thread, unless `withdraw` comes first:
        `on_done` with the sender's cookie when every page has landed, `on_failed` when the sender gave up,
        died or sent what does not fit. Where `on_done` raises, both sides take the transfer as failed.

        Raises MemPoolError for a store whose blocks no message carries, and without a key where there is to
        be one.
        """
        require_sendable(store.layout)
        if self._encrypts and key is None:
            raise MemPoolError("this receiver takes encrypted blocks alone: give what new_key() returns")
        ticket = secrets.randbits(63) | 1
        self._expected[ticket] = IncomingTransfer(store, pages, on_done, on_failed, after, key)
        return ticket

    def new_key(self) -> bytes | None:
        """A key for one ticket; None where blocks come in clear."""
        return secrets.token_bytes(wire.KEY_BYTES) if self._encrypts else None

    @property
    def errors(self) -> int:
        """Unexpected ones."""
        return self._guard.errors

    @property
    def expected(self) -> int:
        """How many transfers are admitted and have not ended."""
        return len(self._expected)

    def withdraw(self, ticket: int) -> None:
        """After this returns no byte is written to the ticket's pages, and no callback runs. Idempotent."""
        with self._lock:
            self._forget(ticket)

    def close(self) -> None:
        self._stopping = True
        self._wakeup.set()
        self._thread.join()
        self._wakeup.close()
        self._listener.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wakeup, zmq.POLLIN)
        for pollable in self._listener.pollables:
            poller.register(pollable, zmq.POLLIN)
        timeout: int | None = None
        while not self._stopping:
            poller.poll(timeout)
            self._wakeup.clear()
            timeout = _AFTER_ERROR_MS
            with self._guard:
                timeout = self._turn()

    def _turn(self) -> int | None:
        """Returns for how long nothing has to be done (ms)."""
        timeout = poll_ms(self._listener.tend())
        for _ in range(_MESSAGES_A_TURN):
            received = None if self._stopping else self._listener.receive()
            if received is None:
                return timeout
            with self._guard:
                self._take(received)
        return 0

    def _take(self, received: IncomingMessage | Disconnected) -> None:
        if isinstance(received, Disconnected):
            self.bad_frames += bool(received.fault)
            self._hang_up(received.source, PeerDied(_SENDER, received.fault or "connection closed"))
            return
        try:
            answer = self._answer(received)
        except FrameError as error:
            self.bad_frames += 1
            logger.debug("a bad frame: %s", error)
            answer = wire.Bye(wire.short(str(error)))
            self._hang_up(received.source, Refused(_SENDER, f"bad frame: {error}"))
        self._listener.send(received.source, wire.encode(answer))

    def _place(self, source: bytes, header: Buffer, size: int) -> PayloadSink:
        """The reply to a bad message has to wait until the message is read."""
        try:
            message = wire.decode_to_receiver(header)
            if source in self._welcomed and isinstance(message, wire.Blocks):
                return self._place_blocks(source, message, size)
            if source in self._welcomed and isinstance(message, wire.Sealed):
                return self._place_sealed(source, message, size)
            raise FrameError(f"{size} bytes of payload where none was expected")
        except MemPoolError as error:
            return DiscardSink(size, error)
        except Exception as error:
            self._guard.report(error)
            return DiscardSink(size, MemPoolError(str(error)))

    def _place_blocks(
        self, source: bytes, message: wire.Blocks, size: int, *, opened: bool = False
    ) -> BlockSink:
        self._await_writable(message.ticket)
        with self._lock:
            expected = self._claimed(message, source, opened=opened)
            place = expected.place(message, size, partial(self._staging_of, source))
        return BlockSink(
            place,
            self._lock,
            lambda: self._expected.get(message.ticket) is expected,
            is_staging=expected.takes_any_memory,
        )

    def _place_sealed(self, source: bytes, sealed: wire.Sealed, size: int) -> SealedSink:
        self._await_writable(sealed.ticket)
        with self._lock:
            expected = self._expected_under(sealed.ticket)
            message = expected.open(sealed, source)
            if not isinstance(message, wire.Blocks):
                raise FrameError(f"{size} bytes of payload with an encrypted message of no blocks")
            sink: BlockSink | DiscardSink
            try:
                sink = self._place_blocks(source, message, size, opened=True)
            except MemPoolError as error:
                sink = DiscardSink(size, error)
        return SealedSink(sink, message, expected.payload(sealed))

    def _await_writable(self, ticket: int) -> None:
        """Without the lock: whoever withdraws a ticket must not wait for the engine."""
        expected = self._expected.get(ticket)
        if expected is not None:
            expected.await_writable()

    def _staging_of(self, source: bytes, store: BlockStore, size: int) -> torch.Tensor:
        """Staging memory, kept as long as the connection: new memory for each transfer fragments the heap."""
        kept = self._staging[source].get(store)
        if kept is None or len(kept) < size:
            kept = self._staging[source][store] = store.host_bytes(max(size, _STAGING_BYTES))
        return kept

    def _answer(self, received: IncomingMessage) -> wire.ToSender:
        source, frames, place, _ = received
        if isinstance(place, DiscardSink) and isinstance(place.error, FrameError):
            raise place.error
        if not 1 <= len(frames) <= 1 + wire.MAX_PAYLOAD_FRAMES:
            raise FrameError(f"a message of {len(frames)} frames")
        message = wire.decode_to_receiver(frames[0])
        if len(frames) > 1 and not isinstance(message, wire.Blocks | wire.Sealed):
            raise FrameError(f"{len(frames)} frames where one was expected")
        if isinstance(message, wire.ChannelHello):
            return self._welcome(source, message)
        if source not in self._welcomed:
            raise FrameError("the connection did not begin with a hello")
        payload = [memoryview(frame) for frame in frames[1:]]
        if payload:
            self._await_writable(message.ticket)
        with self._lock:
            if isinstance(message, wire.Sealed):
                return self._answer_sealed(source, message, payload, place)
            return self._apply(source, message, payload, place)

    def _answer_sealed(
        self, source: bytes, sealed: wire.Sealed, payload: list[memoryview], place: PayloadSink | None
    ) -> wire.ToSender:
        try:
            expected = self._expected_under(sealed.ticket)
        except MemPoolError as error:
            # Its key is forgotten too.
            self.strays += 1
            return wire.Refuse(sealed.ticket, sealed.seq, str(error))
        message: wire.OfTicket
        if isinstance(place, SealedSink):
            place.verify()
            message, place = place.message, place.sink
        elif isinstance(place, DiscardSink):
            raise place.error
        else:
            message = expected.open(sealed, source)
            if payload:
                payload = [expected.payload(sealed).open_frames(payload)]
        answer = self._apply(source, message, payload, place, opened=True)
        return expected.seal_answer(sealed, answer)

    def _welcome(self, source: bytes, hello: wire.ChannelHello) -> wire.Welcome | wire.Bye:
        if hello.version != wire.VERSION:
            logger.warning("refusing a sender: %s", wire.other_version(hello.version))
            return wire.Bye(wire.other_version(hello.version))
        self._welcomed.add(source)
        return wire.Welcome(wire.VERSION, self._window_bytes)

    def _apply(
        self,
        source: bytes,
        message: wire.OfTicket,
        payload: list[memoryview],
        place: PayloadSink | None,
        *,
        opened: bool = False,
    ) -> wire.Ack | wire.Refuse:
        """`opened`: the message came under the ticket's key."""
        ticket, seq = message.ticket, message.seq
        try:
            expected = self._claimed(message, source, opened=opened)
        except MemPoolError as error:
            self.strays += 1
            if isinstance(message, wire.Blocks | wire.Finish):
                return wire.Refuse(ticket, seq, str(error))
            return wire.Ack(ticket, seq)
        if isinstance(message, wire.Fail):
            self._fail(ticket, Refused(_SENDER, message.reason))
        elif isinstance(message, wire.Blocks | wire.Finish):
            try:
                self._land(expected, message, payload, place)
            except Exception as error:
                return self._refuse(message, error)
        return wire.Ack(ticket, seq)

    def _expected_under(self, ticket: int) -> IncomingTransfer:
        """Raises MemPoolError."""
        expected = self._expected.get(ticket)
        if expected is None:
            raise MemPoolError("the receiver does not wait for this transfer")
        return expected

    def _claimed(self, message: wire.OfTicket, source: bytes, *, opened: bool) -> IncomingTransfer:
        """The transfer, which belongs to this connection from now on. Raises MemPoolError."""
        expected = self._expected_under(message.ticket)
        if expected.encrypted and not opened and not self._listener.is_private(source):
            raise MemPoolError(
                "encryption is on at the receiver, and this came in clear: the sender is of a version that "
                "cannot encrypt, or is not whom the ticket was given to"
            )
        if expected.source is None:
            expected.claim(source)
            self._tickets_of[source].add(message.ticket)
        # A sender whose connection broke may say on another one that it gave up, and nothing else.
        elif expected.source != source and not isinstance(message, wire.Fail):
            raise MemPoolError("this transfer comes over another connection")
        return expected

    def _land(
        self,
        expected: IncomingTransfer,
        message: wire.Blocks | wire.Finish,
        payload: list[memoryview],
        place: PayloadSink | None,
    ) -> None:
        if isinstance(message, wire.Finish):
            expected.finish(message)
            self._forget(message.ticket)
        elif isinstance(place, BlockSink):
            self.bytes_received += expected.land(message, place.memory, placed=True)
        elif isinstance(place, DiscardSink):
            raise place.error
        else:
            self.bytes_received += expected.land(message, payload)

    def _refuse(self, message: wire.Blocks | wire.Finish, error: Exception) -> wire.Refuse:
        if not isinstance(error, MemPoolError):
            self._guard.report(error)
        self._fail(message.ticket, Refused(_SENDER, str(error)))
        return wire.Refuse(message.ticket, message.seq, wire.short(str(error)))

    def _fail(self, ticket: int, error: TransferError) -> None:
        expected = self._forget(ticket)
        if expected is not None:
            expected.on_failed(error)

    def _forget(self, ticket: int) -> IncomingTransfer | None:
        expected = self._expected.pop(ticket, None)
        if expected is not None and expected.source is not None:
            self._tickets_of.get(expected.source, set()).discard(ticket)
        return expected

    def _hang_up(self, source: bytes, error: TransferError) -> None:
        """Nothing more is taken from this connection."""
        with self._lock:
            self._welcomed.discard(source)
            self._staging.pop(source, None)
            for ticket in self._tickets_of.pop(source, set()):
                with self._guard:
                    self._fail(ticket, error)
