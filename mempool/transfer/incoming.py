"""One transfer, as its receiver sees it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mempool import wire
from mempool.device import DeviceEvent
from mempool.errors import FrameError, MemPoolError, TransferError
from mempool.store import BlockStore
from mempool.transfer.cells import Cells
from mempool.transfer.sealing import MessageOpener, PayloadOpener


class IncomingTransfer:
    """The transfer fails when `place`, `land` or `finish` raise MemPoolError: a message does not fit it."""

    def __init__(
        self,
        store: BlockStore,
        pages: torch.Tensor,
        on_done: Callable[[bytes], None],
        on_failed: Callable[[TransferError], None],
        after: DeviceEvent | None,
        key: bytes | None = None,
    ) -> None:
        self.on_done = on_done
        self.on_failed = on_failed
        self.source: bytes | None = None
        self._store = store
        self._pages = pages
        self._after = after
        self._opener = None if key is None else MessageOpener(key)
        self._cells = Cells(len(pages), len(store.layout.plane_bytes))
        # Whether the payload of the message that is being read goes straight to its pages.
        self._in_place = False

    def await_writable(self) -> None:
        """Waits until its pages may be written to: before anything of it is placed, or lands."""
        if self._after is not None:
            self._after.synchronize()
            self._after = None

    def claim(self, source: bytes) -> None:
        """Its messages come over this connection."""
        self.source = source

    @property
    def encrypted(self) -> bool:
        """Whether it has a key: what does not come under that is another's."""
        return self._opener is not None

    def open(self, sealed: wire.Sealed, source: bytes) -> wire.OfTicket:
        """The message in it. Raises FrameError for what its sender did not send now, over this connection."""
        message = self._key_holder.open(sealed)
        if self.source not in (None, source) and not isinstance(message, wire.Fail):
            raise FrameError("a message that was sent over another connection")
        self._key_holder.accept(sealed)
        return message

    def payload(self, sealed: wire.Sealed) -> PayloadOpener:
        """What decrypts the payload of a message that was opened."""
        return self._key_holder.payload(sealed)

    def seal_answer(self, sealed: wire.Sealed, answer: wire.Answer) -> wire.Sealed:
        """The answer to a message that was opened."""
        return self._key_holder.seal_answer(sealed, answer)

    def place(
        self, part: wire.Blocks, size: int, staging: Callable[[BlockStore, int], torch.Tensor]
    ) -> Callable[[], Sequence[memoryview]]:
        """What gives memory for the `size` bytes of its payload, until `land` is called with that.

        `staging` gives so many bytes of host memory of a store, once somebody wants them, where the payload
        cannot go to its pages.
        """
        planes = self._require_fits(part, [size])
        memory = self._store.views(self._pages_of(part), planes)
        self._in_place = memory is not None
        if memory is not None:
            return lambda: memory
        return lambda: [memoryview(staging(self._store, size)[:size].numpy())]

    @property
    def takes_any_memory(self) -> bool:
        """Whether the payload that `place` was called for may be handed to `land` from anywhere, as fast."""
        return not self._in_place and not self._store.wants_pinned

    def land(self, part: wire.Blocks, payload: Sequence[memoryview], *, placed: bool = False) -> int:
        """Copies the payload to its pages, unless it is `placed` there already. Returns its bytes."""
        sizes = [frame.nbytes for frame in payload]
        planes = self._require_fits(part, sizes)
        self._cells.land(part)
        if not (placed and self._in_place):
            self._scatter(part.first, planes, payload)
        return sum(sizes)

    def finish(self, message: wire.Finish) -> None:
        if not self._cells.complete or message.total != len(self._pages):
            raise MemPoolError(
                f"{self._cells} landed, {message.total} were sent, {len(self._pages)} expected"
            )
        self.on_done(message.private)

    @property
    def _key_holder(self) -> MessageOpener:
        if self._opener is None:
            raise FrameError("an encrypted message of a ticket without a key")
        return self._opener

    def _require_fits(self, part: wire.Blocks, sizes: list[int]) -> range:
        planes = range(part.plane, part.plane + part.planes)
        self._cells.require_inside(part)
        row_bytes = self._store.layout.row_bytes(planes)
        if sum(sizes) != part.count * row_bytes or any(size % row_bytes or not size for size in sizes):
            raise MemPoolError(f"{part.count} blocks of {row_bytes} bytes in frames of {sizes[:8]} bytes")
        return planes

    def _pages_of(self, part: wire.Blocks) -> torch.Tensor:
        return self._pages[part.first : part.first + part.count]

    def _scatter(self, first: int, planes: range, payload: Sequence[memoryview]) -> None:
        row_bytes = self._store.layout.row_bytes(planes)
        for frame in payload:
            blocks = torch.from_numpy(np.frombuffer(frame, dtype=np.uint8)).view(-1, row_bytes)
            self._store.scatter(self._pages[first : first + len(blocks)], blocks, planes=planes)
            first += len(blocks)
