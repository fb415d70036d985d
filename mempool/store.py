"""Stores: where the bytes of blocks are. The block channel reads from them and writes to them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from mempool import wire
from mempool.address import Medium
from mempool.device import DeviceEvent
from mempool.errors import MemPoolError
from mempool.layout import BlockLayout
from mempool.shared_memory import SharedRegion


class BlockSource(Protocol):
    """Numbered blocks of one layout, to be read.

    `pages` are block numbers, int64 `[n]`, on the host. `planes` says which planes of each block; None: all.
    The bytes of blocks are uint8 `[n, layout.row_bytes(planes)]`, on the host, contiguous. A page outside the
    store raises MemPoolError.
    """

    layout: BlockLayout

    @property
    def regions(self) -> Sequence[SharedRegion] | None:
        """The shared memory that all of its `views` lie in. None: they do not."""

    def views(self, pages: torch.Tensor, planes: range | None = None) -> list[memoryview] | None:
        """The bytes in place, in order, in whole rows. None: they have to be gathered."""

    def gather(self, pages: torch.Tensor, out: torch.Tensor, planes: range | None = None) -> None:
        """Copies the bytes of blocks to `out`, uint8 `[n, layout.row_bytes(planes)]`."""

    def host_bytes(self, count: int) -> torch.Tensor:
        """Host memory, uint8 `[count]`, of a kind that this source copies to fast."""


class BlockStore(BlockSource, Protocol):
    """Blocks that may be written to as well, also through their `views`."""

    @property
    def num_blocks(self) -> int:
        """How many blocks it has."""
        ...

    @property
    def wants_pinned(self) -> bool:
        """Whether `scatter` is slow from memory that is not as `host_bytes` has it."""
        ...

    def scatter(
        self,
        pages: torch.Tensor,
        blocks: torch.Tensor,
        after: DeviceEvent | None = None,
        planes: range | None = None,
    ) -> None:
        """Copies `blocks` in, not before the event `after`. The bytes are there when it returns."""


def require_sendable(layout: BlockLayout) -> None:
    """Raises MemPoolError where one plane is more than a message may carry."""
    largest = max(layout.plane_bytes)
    if largest > wire.MAX_PIECE_BYTES:
        raise MemPoolError(f"planes of {largest} bytes, a message carries at most {wire.MAX_PIECE_BYTES}")


def require_servable(stores: Mapping[Medium, BlockStore], *, engine_owns_hbm: bool) -> None:
    """Raises MemPoolError for stores that a pool cannot serve."""
    for store in stores.values():
        require_sendable(store.layout)
    if engine_owns_hbm and set(stores) != {Medium.DRAM}:
        raise MemPoolError("an engine that owns its HBM needs a DRAM store, and no other")
