"""What holds blocks: the block channel reads from it and writes to it."""

from typing import Protocol

import torch

from mempool import wire
from mempool.errors import MemPoolError
from mempool.layout import BlockLayout


class BlockSource(Protocol):
    """Numbered blocks of one layout, to be read.

    `pages`: int64 `[n]`, host. `planes`: which planes of each block, None for all. Bytes of blocks are
    uint8 `[n, layout.row_bytes(planes)]`, host, contiguous. A page outside raises MemPoolError.
    """

    layout: BlockLayout

    def views(self, pages: torch.Tensor, planes: range | None = None) -> list[memoryview] | None:
        """The bytes where they lie, in order, whole rows each; None where `gather` is the way to them."""

    def gather(self, pages: torch.Tensor, out: torch.Tensor, planes: range | None = None) -> None:
        """Copies the bytes of blocks to `out`."""

    def host_bytes(self, count: int) -> torch.Tensor:
        """uint8 `[count]` of host memory to which this source copies well."""


class BlockStore(BlockSource, Protocol):
    """Blocks that may be written to as well, also through their `views`."""

    @property
    def num_blocks(self) -> int: ...

    def scatter(
        self,
        pages: torch.Tensor,
        blocks: torch.Tensor,
        after: torch.cuda.Event | None = None,
        planes: range | None = None,
    ) -> None:
        """Copies `blocks` in. On CUDA not before `after`, and they have landed when it returns."""


def require_sendable(layout: BlockLayout) -> None:
    """Raises MemPoolError where one plane is more than a message may carry."""
    largest = max(layout.plane_bytes)
    if largest > wire.MAX_PIECE_BYTES:
        raise MemPoolError(f"planes of {largest} bytes, a message carries at most {wire.MAX_PIECE_BYTES}")
