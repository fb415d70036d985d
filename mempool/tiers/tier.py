"""A medium of this instance: the bytes of its blocks, and their allocator."""

from typing import NamedTuple

import torch

from mempool.address import Medium, Owner
from mempool.arena import DramArena
from mempool.device import Device, device_of
from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers
from mempool.store import BlockStore
from mempool.tiers.allocator import BlockAllocator
from mempool.tiers.sizes import blocks_of_size


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


def dram_arena(layout: BlockLayout, size: str | int, *, shared: bool = False) -> DramArena:
    """Allocates the DRAM of an instance: one piece of host memory, not zeroed.

    Args:
        layout: The layout of a block.
        size: "8GiB", "25%" of the memory that is free now, "4096 blocks", or a number of blocks.
        shared: Whether instances of this host and user may read it in place, over `shm://`.

    Raises:
        ValueError: The size is malformed, less than one block, or more than there is.
    """
    available = Device(torch.device("cpu")).free_bytes()
    return DramArena(layout, blocks_of_size(size, layout.block_bytes, available), shared=shared)
