"""Lands the blocks that others send in one instance's buffers, on one thread of its own."""

import logging
import secrets
import threading
from collections.abc import Callable

import numpy as np
import torch
import zmq

from mempool import wire
from mempool.errors import FrameError, MemPoolError, Refused, TransferError
from mempool.paged import PagedBuffers
from mempool.sockets import Wakeup, bind_router, new_context

logger = logging.getLogger(__name__)


class _Expected:
    def __init__(
        self,
        pages: torch.Tensor,
        on_done: Callable[[bytes], None],
        on_failed: Callable[[TransferError], None],
        after: torch.cuda.Event | None,
    ) -> None:
        self.pages = pages
        self.on_done = on_done
        self.on_failed = on_failed
        self.after = after
        self.landed = 0


class BlockReceiver:
    """Bound to a free port of `host`; `endpoint` is what senders connect to.

    `bytes_received` counts what landed, `bad_frames` what was not of the protocol.
    """

    def __init__(self, buffers: PagedBuffers, host: str) -> None:
        self._buffers = buffers
        self._context = new_context()
        largest = max(wire.MAX_PIECE_BYTES, buffers.layout.block_bytes)
        self._socket, self.endpoint = bind_router(self._context, host, largest)
        self.bytes_received = 0
        self.bad_frames = 0
        self._expected: dict[int, _Expected] = {}
        # Held while bytes are written: whoever has withdrawn a ticket may reuse its pages.
        self._lock = threading.RLock()
        self._wakeup = Wakeup()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mempool-receiver", daemon=True)
        self._thread.start()

    def expect(
        self,
        pages: torch.Tensor,
        on_done: Callable[[bytes], None],
        on_failed: Callable[[TransferError], None],
        after: torch.cuda.Event | None = None,
    ) -> int:
        """Admits one transfer into `pages` (int64 `[n]`, host) and returns its ticket. Never blocks.

        On CUDA nothing is written to the pages before the event `after`.

        One of the callbacks is called once, on the receiver's thread, unless `withdraw` comes first:
        `on_done` with the sender's cookie when every page has landed, `on_failed` when the sender gave up or
        sent what does not fit. Where `on_done` raises, both sides take the transfer as failed.
        """
        ticket = secrets.randbits(63) | 1
        self._expected[ticket] = _Expected(pages, on_done, on_failed, after)
        return ticket

    @property
    def expected(self) -> int:
        """How many transfers are admitted and have not ended."""
        return len(self._expected)

    def withdraw(self, ticket: int) -> None:
        """After this returns no byte is written to the ticket's pages, and no callback runs. Idempotent."""
        with self._lock:
            self._expected.pop(ticket, None)

    def close(self) -> None:
        self._stopping = True
        self._wakeup.set()
        self._thread.join()
        self._wakeup.close()
        self._socket.close(linger=0)
        self._context.term()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wakeup, zmq.POLLIN)
        while not self._stopping:
            poller.poll()
            self._wakeup.clear()
            while not self._stopping:
                try:
                    frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                self._handle(frames)

    def _handle(self, frames: list[zmq.Frame]) -> None:
        try:
            if len(frames) not in (2, 3):
                raise FrameError(f"{len(frames) - 1} frames where one or two were expected")
            message = wire.decode_to_receiver(frames[1].buffer)
            reply = self._apply(message, frames[2].buffer if len(frames) == 3 else None)
        except FrameError as error:
            self.bad_frames += 1
            logger.debug("dropped a frame: %s", error)
            return
        except Exception:
            # This thread serves everyone.
            logger.exception("a frame of %d parts", len(frames))
            return
        if reply is not None:
            # A full queue or a closed connection: the sender is gone, and so is its need of an answer.
            try:
                self._socket.send_multipart([frames[0].bytes, wire.encode(reply)], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                logger.debug("no answer to a sender: %s", error)

    def _apply(self, message: wire.ToReceiver, payload: memoryview | None) -> wire.ToSender | None:
        with self._lock:
            expected = self._expected.get(message.ticket)
            if isinstance(message, wire.Fail):
                if expected is not None:
                    del self._expected[message.ticket]
                    expected.on_failed(Refused("the sender", message.reason))
                return None
            if expected is None:
                return wire.Refuse(
                    message.ticket, message.seq, "the receiver does not wait for this transfer"
                )
            try:
                self._take(expected, message, payload)
            except Exception as error:
                if not isinstance(error, MemPoolError):
                    logger.exception("landing blocks")
                self._expected.pop(message.ticket, None)
                expected.on_failed(Refused("the sender", str(error)))
                return wire.Refuse(message.ticket, message.seq, wire.short(str(error)))
            return wire.Ack(message.ticket, message.seq)

    def _take(
        self, expected: _Expected, message: wire.Blocks | wire.Finish, payload: memoryview | None
    ) -> None:
        if isinstance(message, wire.Blocks):
            self._land(expected, message, payload)
        elif expected.landed != len(expected.pages) or message.total != expected.landed:
            raise MemPoolError(
                f"{expected.landed} blocks landed, {message.total} were sent, {len(expected.pages)} expected"
            )
        else:
            del self._expected[message.ticket]
            expected.on_done(message.private)

    def _land(self, expected: _Expected, message: wire.Blocks, payload: memoryview | None) -> None:
        size = 0 if payload is None else payload.nbytes
        if payload is None or size != message.count * self._buffers.layout.block_bytes:
            raise MemPoolError(f"{message.count} blocks in {size} bytes")
        if message.first != expected.landed or message.first + message.count > len(expected.pages):
            raise MemPoolError(
                f"blocks {message.first} to {message.first + message.count} after {expected.landed} "
                f"of {len(expected.pages)}"
            )
        blocks = torch.from_numpy(np.frombuffer(payload, dtype=np.uint8)).view(message.count, -1)
        pages = expected.pages[message.first : message.first + message.count]
        self._buffers.scatter(pages, blocks, expected.after)
        expected.landed += message.count
        self.bytes_received += size
