"""Where a transport reads the payload of a message to."""

import threading
from collections.abc import Callable, Sequence
from functools import cached_property

from mempool import wire
from mempool.errors import MemPoolError
from mempool.transfer.sealing import PayloadOpener
from mempool.transports.base import Read
from mempool.transports.vector import Vector

_NOWHERE_BYTES = 64 * 1024


class DiscardSink:
    """Takes `size` bytes that are not wanted, because of `error`, and drops them."""

    is_staging = False

    def __init__(self, size: int, error: MemPoolError) -> None:
        self.error = error
        self._left = size
        self._memory = memoryview(bytearray(min(size, _NOWHERE_BYTES)))

    def fill(self, read: Read) -> int:
        count = read([self._memory[: self._left]])
        self._left -= count
        return count


class BlockSink:
    """Memory of a transfer, as long as the transfer is `alive`. It is checked and written to under `lock`.

    `place` gives the memory, and is called once something is read to it.
    """

    def __init__(
        self,
        place: Callable[[], Sequence[memoryview]],
        lock: threading.RLock,
        alive: Callable[[], bool],
        *,
        is_staging: bool = False,
    ) -> None:
        self.is_staging = is_staging
        self._place = place
        self._lock = lock
        self._alive = alive

    @cached_property
    def memory(self) -> Sequence[memoryview]:
        return self._place()

    @cached_property
    def _vector(self) -> Vector:
        return Vector(self.memory)

    def fill(self, read: Read) -> int:
        with self._lock:
            if self._alive():
                return self._vector.fill(read)
        gone = DiscardSink(self._vector.left, MemPoolError("withdrawn"))
        count = gone.fill(read)
        self._vector.advance(count)
        return count


class SealedSink:
    """Decrypts what `sink` takes, where it lies, as it is read: the payload of `message`, which was opened.

    It is to be believed once `verify` has returned.
    """

    is_staging = False

    def __init__(self, sink: BlockSink | DiscardSink, message: wire.Blocks, payload: PayloadOpener) -> None:
        self.sink = sink
        self.message = message
        self._payload = payload

    def fill(self, read: Read) -> int:
        def opened(parts: Sequence[memoryview]) -> int:
            count = read(parts)
            self._payload.open(parts, count)
            return count

        return self.sink.fill(opened)

    def verify(self) -> None:
        """Raises FrameError."""
        self._payload.verify()
