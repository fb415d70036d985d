"""Copies of blocks between the stores of one instance."""

from collections.abc import Sequence

import torch

from mempool.address import Addresses
from mempool.arena import DramArena
from mempool.paged import PagedBuffers
from mempool.store import BlockSource, BlockStore
from mempool.tiers.tier import Tier

_STAGING_BYTES = 16 << 20
# Of one plane. To copy less at once costs more than to copy all of it twice.
_SMALLEST_COPY_BYTES = 48 << 10


class BlockCopies:
    """From `source` to `target`, again and again. For one thread.

    Between an engine's buffers and DRAM bytes are copied once, by the device where it does that by itself;
    everything else goes through staging memory.
    """

    def __init__(self, source: BlockSource, target: BlockStore) -> None:
        self._source = source
        self._target = target
        self._staging: torch.Tensor | None = None

    def copy(self, read: torch.Tensor, written: torch.Tensor) -> None:
        """The bytes of blocks `read` to blocks `written`, int64 `[n]` each, and `written` on the host."""
        source, target = self._source, self._target
        if isinstance(source, PagedBuffers) and isinstance(target, DramArena):
            parts = target.parts(written)
            if source.device.runs_ahead or self._are_large(parts):
                source.gather_to(read, parts)
                return
        elif isinstance(source, DramArena) and not target.wants_pinned:
            parts = source.parts(read)
            if self._are_large(parts):
                for pages, part in zip(written.split([len(part) for part in parts]), parts, strict=True):
                    target.scatter(pages, part)
                return
        self._copy_staged(read, written)

    def _are_large(self, parts: Sequence[torch.Tensor]) -> bool:
        """Whether parts of DRAM are worth a call for each of their planes."""
        calls = len(parts) * len(self._source.layout.plane_bytes)
        size: int = sum(part.nbytes for part in parts)
        return size >= calls * _SMALLEST_COPY_BYTES

    def _copy_staged(self, read: torch.Tensor, written: torch.Tensor) -> None:
        if self._staging is None:
            self._staging = self._new_staging()
        staging = self._staging
        for first in range(0, len(read), len(staging)):
            blocks = staging[: min(len(staging), len(read) - first)]
            self._source.gather(read[first : first + len(blocks)], blocks)
            self._target.scatter(written[first : first + len(blocks)], blocks)

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
