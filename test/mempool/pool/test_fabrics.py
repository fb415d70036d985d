"""Pools of one host: blocks go through shared memory, and over what is left where they cannot."""

import pytest
import torch
from small_blocks import DRAM, HBM, LAYOUT, tokens

from mempool.config import MemPoolConfig
from mempool.endpoints import SHM_URL
from mempool.flags import TransferFlags
from mempool.pool import MemPool
from mempool.tiers.tier import device_buffers, dram_arena


@pytest.fixture
def pair(world):
    def pool(name):
        stores = {HBM: device_buffers(LAYOUT, 16), DRAM: dram_arena(LAYOUT, 16, shared=True)}
        return world.pool(name, "stream", fabric_urls=[SHM_URL], stores=stores)

    return pool("a"), pool("b")


def schemes(pool):
    return {endpoint.partition(":")[0] for endpoint in pool._exchange._sender._peers}


@pytest.mark.parametrize("source", [HBM, DRAM])
@pytest.mark.parametrize("medium", [HBM, DRAM])
def test_blocks_of_any_medium_go_through_shared_memory(pair, source, medium):
    a, b = pair
    blocks, data = a.filled(6, source)
    landed = a.transfer("b", blocks, flags=TransferFlags(medium=medium))
    assert torch.equal(b.stored(landed.addresses), data)
    assert schemes(a) == {"shm"}
    assert a.counters()["fabric_fallbacks"] == 0


def test_what_another_has_published_is_fetched_through_shared_memory(pair):
    a, b = pair
    _, data = a.published(tokens(4), DRAM)
    assert b.fetch("a", tokens(4), timeout_s=20) == 4
    assert torch.equal(b.found(tokens(4)), data)
    assert schemes(a) == {"shm"}


def test_one_that_knows_no_fabric_sends_over_what_all_have(world, pair):
    _, b = pair
    with MemPool(MemPoolConfig(instance="c"), stores={DRAM: dram_arena(LAYOUT, 16)}) as c:
        assert c.info.fabrics == ()
        b.introduce(c.info)
        c.introduce(b.info)
        blocks, _ = b.filled(2, DRAM)
        assert len(b.transfer("c", blocks, flags=TransferFlags(medium=DRAM)).addresses) == 2
        assert schemes(b) == {"stream"}
