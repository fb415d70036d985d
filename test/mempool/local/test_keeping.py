"""Blocks that a device reads by itself, and what happens to them meanwhile."""

import pytest
import torch
from small_blocks import DRAM, HBM, tokens

from mempool.errors import BadAddress, OutOfBlocks, StaleAddress


def test_kept_blocks_are_reused_after_the_last_keeping_of_them(pool):
    addresses, data = pool.published(tokens(8), DRAM)
    first, second = pool.keep([addresses]), pool.keep([addresses[2:4]])
    pool.clear()
    with pytest.raises(OutOfBlocks):
        pool.alloc_mem(1, DRAM)
    assert torch.equal(pool.stored([addresses]), data)
    first()
    assert not set(pool.alloc_mem(6, DRAM).blocks) & set(addresses[2:4].blocks)
    second()
    assert len(pool.alloc_mem(2, DRAM)) == 2


def test_kept_blocks_outlive_their_incarnation(pool):
    addresses, _ = pool.published(tokens(4), DRAM)
    ends = [pool.keep([addresses]), pool.keep([addresses[1:2], addresses[3:]])]
    for incarnation in (2, 3):
        pool.reset_incarnation(incarnation)
        assert pool.used(DRAM) == (4, 4, 0)
        assert pool.used(HBM) == (8, 0, 0)
    taken = pool.alloc_mem(4, DRAM)
    assert not set(taken.blocks) & set(addresses.blocks)
    ends[0]()
    assert pool.used(DRAM) == (2, 6, 0)
    ends[1]()
    pool.free_mem(taken)
    assert pool.used(DRAM) == (8, 0, 0)


def test_what_is_free_or_of_a_past_incarnation_is_not_kept(pool):
    addresses = pool.alloc_mem(2, DRAM)
    pool.free_mem(addresses)
    with pytest.raises(BadAddress):
        pool.keep([addresses])
    pool.reset_incarnation(2)
    with pytest.raises(StaleAddress):
        pool.keep([addresses])
    pool.reset_incarnation(3)
    assert pool.used(DRAM) == (8, 0, 0)
