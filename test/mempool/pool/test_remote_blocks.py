"""Blocks that one instance has at another."""

import pytest
from small_blocks import DRAM, HBM, tokens

from mempool.errors import BadAddress, OutOfBlocks
from mempool.remote.messages import MAX_BLOCKS, MAX_COOKIE_BYTES

SCHEMES = ["inproc", "stream", "tcp", "ipc"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_blocks_of_another_instance_are_allocated_and_freed(world, scheme):
    a, b = world.pair(scheme)
    addresses = a.alloc_mem(5, DRAM, "b")
    assert addresses.owner == b.local.tier(DRAM).owner
    assert b.used(DRAM) == (11, 5, 0)
    assert b.counters()["held_blocks"] == 5
    a.free_mem(addresses[:2])
    assert b.used(DRAM) == (13, 3, 0)
    with pytest.raises(BadAddress, match="is free"):
        a.free_mem(addresses)
    assert b.used(DRAM) == (13, 3, 0)
    a.free_mem(addresses[2:])
    assert b.lacks_nothing()
    assert b.counters()["held_blocks"] == 0


def test_too_many_blocks_are_refused_with_the_instances_name(world):
    a, b = world.pair()
    with pytest.raises(OutOfBlocks, match="17 blocks asked") as caught:
        a.alloc_mem(17, DRAM, "b")
    assert caught.value.owner == b.local.tier(DRAM).owner
    assert b.lacks_nothing()


def test_blocks_held_for_one_instance_are_closed_to_a_third(world):
    a, b = world.pair()
    c = world.pool("c")
    addresses = a.alloc_mem(2, DRAM, "b")
    own, _ = c.filled(2)
    with pytest.raises(BadAddress, match="not held for c"):
        c.free_mem(addresses)
    with pytest.raises(BadAddress, match="not held for c"):
        c.transfer("b", own, addresses)
    assert b.used(DRAM) == (14, 2, 0)


def test_a_call_that_no_message_carries_is_refused_at_once(world):
    a, b = world.pair()
    own, _ = a.filled(1)
    with pytest.raises(ValueError, match="count"):
        a.alloc_mem(-1, DRAM, "b")
    with pytest.raises(ValueError, match="count"):
        a.alloc_mem(MAX_BLOCKS + 1, DRAM, "b")
    with pytest.raises(ValueError, match="cookie"):
        a.transfer("b", own, private=bytes(MAX_COOKIE_BYTES + 1))
    with pytest.raises(ValueError, match="namespace"):
        a.transfer_with_insert("b", tokens(1), own, namespace="n" * 300)
    with pytest.raises(ValueError, match="bytes of tokens"):
        a.transfer_with_insert("b", tokens(1 << 19), own)
    a.free_mem(own)
    assert a.lacks_nothing(HBM)
    assert b.counters()["bad_frames"] == 0
