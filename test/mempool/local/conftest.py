"""Pools of one instance, checked after each test."""

import pytest
import torch
from small_blocks import DRAM, HBM, LAYOUT, PAGE

from mempool.address import Addresses, Owner
from mempool.local import LocalPool
from mempool.tiers.tier import Tier, device_buffers, dram_arena


class Pool(LocalPool):
    """A pool, and hands to fill and read its blocks with."""

    def stored(self, addresses):
        """The bytes of blocks, `[n, block_bytes]`, wherever they are."""
        parts = [addresses] if isinstance(addresses, Addresses) else addresses
        rows = [torch.empty((len(part), LAYOUT.block_bytes), dtype=torch.uint8) for part in parts]
        for part, out in zip(parts, rows, strict=True):
            self.tier(part.medium).store.gather(torch.from_numpy(part.blocks).long(), out)
        return torch.cat(rows)

    def filled(self, addresses):
        """Writes random bytes, and returns them."""
        data = torch.randint(0, 256, (len(addresses), LAYOUT.block_bytes), dtype=torch.uint8)
        self.tier(addresses.medium).store.scatter(torch.from_numpy(addresses.blocks).long(), data)
        return data

    def published(self, tokens, medium=HBM):
        """The blocks that now have these tokens' KV, and its bytes."""
        addresses = self.alloc_mem(len(tokens) // PAGE, medium)
        data = self.filled(addresses)
        assert self.insert(tokens, addresses) == []
        return addresses, data

    def used(self, medium):
        """(free, active, historical)"""
        return self.counts(medium)[:3]

    def copies(self, tokens):
        """How many blocks of `tokens` match, and the media that they are in, in order."""
        with self.match(tokens) as found:
            return found.blocks, [part.medium for part in found.addresses]

    def check(self):
        self.index.check_integrity()
        for medium in self.tiers:
            free, active, historical, total = self.counts(medium)
            assert free + active + historical == total


@pytest.fixture
def make():
    pools = []

    def make(hbm=8, dram=8, **how):
        sizes = {HBM: hbm, DRAM: dram}
        kinds = {HBM: device_buffers, DRAM: dram_arena}
        tiers = [
            Tier.of(Owner("a", 1, medium), kinds[medium](LAYOUT, size))
            for medium, size in sizes.items()
            if size
        ]
        pools.append(Pool(tiers, **how))
        return pools[-1]

    yield make
    for pool in pools:
        pool.check()


@pytest.fixture
def pool(make):
    return make()
