"""A medium of this instance: the bytes of its blocks, and their allocator."""

from typing import NamedTuple

import torch

from mempool.address import Addresses, Medium, Owner
from mempool.arena import DramArena
from mempool.device import Device, Event, device_of
from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers
from mempool.store import BlockSource, BlockStore
from mempool.tiers.allocator import BlockAllocator
from mempool.tiers.sizes import blocks_of_size

_STAGING_BYTES = 16 << 20


class Tier(NamedTuple):
    allocator: BlockAllocator
    store: BlockStore

    @classmethod
    def of(cls, owner: Owner, store: BlockStore) -> "Tier":
        """A tier of all blocks of `store`. Nobody else may allocate them."""
        return cls(BlockAllocator(owner, store.num_blocks), store)

    @property
    def owner(self) -> Owner:
        return self.allocator.owner

    @property
    def medium(self) -> Medium:
        return self.allocator.owner.medium


def device_buffers(layout: BlockLayout, size: str | int, device: torch.device | str = "cpu") -> PagedBuffers:
    """Allocates the HBM of an instance: zeroed buffers like an engine's, one for each plane.

    Args:
        layout: The layout of a block.
        size: "8GiB", "25%" of the memory that is free now, "4096 blocks", or a number of blocks.
        device: Where the buffers are to be.

    Raises:
        ValueError: The size is malformed, less than one block, or more than there is.
    """
    device = torch.device(device)
    blocks = blocks_of_size(size, layout.block_bytes, device_of(device).free_bytes())
    planes = [
        torch.zeros((blocks * layout.page_size, size // layout.page_size), dtype=torch.uint8, device=device)
        for size in layout.plane_bytes
    ]
    return PagedBuffers(planes, layout)


def dram_arena(layout: BlockLayout, size: str | int) -> DramArena:
    """Allocates the DRAM of an instance: one piece of host memory, not zeroed.

    Args:
        layout: The layout of a block.
        size: "8GiB", "25%" of the memory that is free now, "4096 blocks", or a number of blocks.

    Raises:
        ValueError: The size is malformed, less than one block, or more than there is.
    """
    available = Device(torch.device("cpu")).free_bytes()
    return DramArena(layout, blocks_of_size(size, layout.block_bytes, available))


def copy_blocks(source: Tier, read: Addresses, target: Tier, written: Addresses) -> None:
    """Copies bytes, and changes no allocation. The caller must hold the blocks of both tiers meanwhile."""
    staging = staging_for(source.store)
    copy_between(source.store, pages_of(read), target.store, pages_of(written), staging)


def pages_of(addresses: Addresses) -> torch.Tensor:
    """int64 `[n]`: the blocks as stores take them."""
    return torch.from_numpy(addresses.blocks).to(torch.int64)


def staging_for(source: BlockSource) -> torch.Tensor:
    """Host memory, uint8 `[blocks, block_bytes]`, for `copy_between` out of this source, again and again."""
    block_bytes = source.layout.block_bytes
    blocks = max(1, _STAGING_BYTES // block_bytes)
    return source.host_bytes(blocks * block_bytes).view(blocks, block_bytes)


def copy_between(
    source: BlockSource,
    read: torch.Tensor,
    target: BlockStore,
    written: torch.Tensor,
    staging: torch.Tensor,
    after: Event | None = None,
) -> None:
    """Copies the bytes of blocks `read` to blocks `written`, int64 `[n]` each; on CUDA not before `after`."""
    for first in range(0, len(read), len(staging)):
        blocks = staging[: min(len(staging), len(read) - first)]
        source.gather(read[first : first + len(blocks)], blocks)
        target.scatter(written[first : first + len(blocks)], blocks, after)
