"""One transfer as the side that takes the blocks sees it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mempool import wire
from mempool.errors import MemPoolError, TransferError
from mempool.store import BlockStore
from mempool.transfer.cells import Cells
from mempool.transfer.checksum import ChecksumMismatch, digest


class Expected:
    """`land` and `finish` raise MemPoolError for what does not fit the transfer, which has failed then."""

    def __init__(
        self,
        store: BlockStore,
        pages: torch.Tensor,
        on_done: Callable[[bytes], None],
        on_failed: Callable[[TransferError], None],
        after: torch.cuda.Event | None,
    ) -> None:
        self.on_done = on_done
        self.on_failed = on_failed
        self.source: bytes | None = None
        self._store = store
        self._pages = pages
        self._after = after
        self._cells = Cells(len(pages), len(store.layout.plane_bytes))

    def land(self, part: wire.Blocks, payload: Sequence[memoryview]) -> int:
        """Writes the payload to its pages; returns its bytes."""
        planes = range(part.plane, part.plane + part.planes)
        self._cells.require_inside(part)
        row_bytes = self._store.layout.row_bytes(planes)
        sizes = [frame.nbytes for frame in payload]
        if sum(sizes) != part.count * row_bytes or any(size % row_bytes or not size for size in sizes):
            raise MemPoolError(f"{part.count} blocks of {row_bytes} bytes in frames of {sizes[:8]} bytes")
        if part.checksum is not None and digest(payload) != part.checksum:
            raise ChecksumMismatch("the sender")
        self._cells.land(part)
        at = part.first
        for frame, size in zip(payload, sizes, strict=True):
            blocks = torch.from_numpy(np.frombuffer(frame, dtype=np.uint8)).view(-1, row_bytes)
            self._store.scatter(self._pages[at : at + len(blocks)], blocks, self._after, planes)
            at += size // row_bytes
        return sum(sizes)

    def finish(self, message: wire.Finish) -> None:
        if not self._cells.complete or message.total != len(self._pages):
            raise MemPoolError(
                f"{self._cells} landed, {message.total} were sent, {len(self._pages)} expected"
            )
        self.on_done(message.private)
