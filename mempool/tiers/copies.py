"""Copies of blocks between the stores of one instance."""

import torch

from mempool.address import Addresses
from mempool.arena import DramArena
from mempool.paged import PagedBuffers
from mempool.store import BlockSource, BlockStore
from mempool.tiers.tier import Tier

_STAGING_BYTES = 16 << 20


class BlockCopies:
    """From `source` to `target`, again and again. For one thread.

    A device that copies by itself writes to DRAM in place; everything else goes through staging memory.
    """

    def __init__(self, source: BlockSource, target: BlockStore) -> None:
        self._source = source
        self._target = target
        self._staging = None if self._reaches() else self._new_staging()

    def copy(self, read: torch.Tensor, written: torch.Tensor) -> None:
        """The bytes of blocks `read` to blocks `written`, int64 `[n]` each, and `written` on the host."""
        source, target, staging = self._source, self._target, self._staging
        if staging is None:
            assert isinstance(source, PagedBuffers)
            assert isinstance(target, DramArena)
            source.gather_to(read, target.parts(written))
            return
        for first in range(0, len(read), len(staging)):
            blocks = staging[: min(len(staging), len(read) - first)]
            source.gather(read[first : first + len(blocks)], blocks)
            target.scatter(written[first : first + len(blocks)], blocks)

    def _reaches(self) -> bool:
        source = self._source
        on_device = isinstance(source, PagedBuffers) and source.device.runs_ahead
        return on_device and isinstance(self._target, DramArena)

    def _new_staging(self) -> torch.Tensor:
        block_bytes = self._source.layout.block_bytes
        blocks = max(1, _STAGING_BYTES // block_bytes)
        return self._source.host_bytes(blocks * block_bytes).view(blocks, block_bytes)


def copy_blocks(source: Tier, read: Addresses, target: Tier, written: Addresses) -> None:
    """Copies bytes, and changes no allocation. The caller must hold the blocks of both tiers meanwhile."""
    BlockCopies(source.store, target.store).copy(pages_of(read), pages_of(written))


def pages_of(addresses: Addresses) -> torch.Tensor:
    """int64 `[n]`: the blocks as stores take them."""
    return torch.from_numpy(addresses.blocks).to(torch.int64)
