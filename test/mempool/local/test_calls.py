"""What the calls of one instance return and raise."""

import msgspec
import numpy as np
import pytest
import torch
from small_blocks import DRAM, HBM, LAYOUT, tokens

from mempool.address import Addresses, Owner
from mempool.errors import BadAddress, LayoutMismatch, OutOfBlocks, StaleAddress
from mempool.local import LocalPool
from mempool.tiers.tier import Tier, device_buffers, dram_arena


def state(pool):
    return pool.used(HBM), pool.used(DRAM), pool.index.nodes


def test_blocks_are_free_then_active_then_historical_then_free(pool):
    addresses = pool.alloc_mem(3, HBM)
    assert pool.used(HBM) == (5, 3, 0)
    pool.insert(tokens(3), addresses)
    assert pool.used(HBM) == (5, 0, 3)
    assert pool.delete(tokens(3)) == 3
    assert pool.used(HBM) == (8, 0, 0)


def test_alloc_gives_all_or_nothing(pool):
    kept = pool.alloc_mem(6, HBM)
    with pytest.raises(OutOfBlocks, match="3 blocks asked, 2 of 8 are free") as caught:
        pool.alloc_mem(3, HBM)
    assert caught.value.owner == Owner("a", 1, HBM)
    assert pool.used(HBM) == (2, 6, 0)
    pool.free_mem(kept)
    assert len(pool.alloc_mem(8, HBM)) == 8


def test_alloc_that_cannot_succeed_evicts_nothing(pool):
    pool.published(tokens(3))
    pool.alloc_mem(4, HBM)
    before = state(pool)
    with pytest.raises(OutOfBlocks):
        pool.alloc_mem(5, HBM)
    assert state(pool) == before


def test_no_blocks_and_a_negative_number_of_them(pool):
    assert len(pool.alloc_mem(0, DRAM)) == 0
    with pytest.raises(ValueError, match="-1 blocks"):
        pool.alloc_mem(-1, DRAM)


def test_a_medium_that_the_instance_does_not_have_gives_no_blocks(make):
    with pytest.raises(OutOfBlocks, match="this instance has none"):
        make(dram=0).alloc_mem(1, DRAM)


def test_freeing_twice_or_freeing_what_is_published_changes_nothing(pool):
    addresses, _ = pool.published(tokens(2))
    with pytest.raises(BadAddress, match="historical KV"):
        pool.free_mem(addresses)
    spare = pool.alloc_mem(2, HBM)
    pool.free_mem(spare)
    before = state(pool)
    with pytest.raises(BadAddress, match="is free"):
        pool.free_mem(spare)
    assert state(pool) == before


@pytest.mark.parametrize("call", ["free_mem", "insert", "swap_in"])
def test_addresses_of_an_earlier_incarnation_are_refused(pool, call):
    addresses = pool.alloc_mem(2, DRAM)
    stale = Addresses(addresses.owner._replace(incarnation=0), addresses.blocks)
    before = state(pool)
    arguments = (tokens(2), stale) if call == "insert" else (stale,)
    with pytest.raises(BadAddress if call == "swap_in" else StaleAddress):
        getattr(pool, call)(*arguments)
    assert state(pool) == before


def test_stores_of_different_layouts_make_no_pool():
    other = msgspec.structs.replace(LAYOUT, layers=2)
    tiers = [
        Tier.of(Owner("a", 1, HBM), device_buffers(LAYOUT, 2)),
        Tier.of(Owner("a", 1, DRAM), dram_arena(other, 2)),
    ]
    with pytest.raises(LayoutMismatch, match="layers"):
        LocalPool(tiers)


def test_match_finds_the_longest_prefix_in_whole_blocks_with_its_bytes(pool):
    _, data = pool.published(tokens(3))
    with pool.match(np.concatenate([tokens(2), [7, 7, 7, 7, 7]])) as found:
        assert (found.blocks, found.tokens) == (2, 8)
        assert torch.equal(pool.stored(found.addresses), data[:2])
    with pool.match(tokens(1, first=50)) as found:
        assert (found.blocks, found.addresses) == (0, [])
        found.check()


def test_a_namespace_hides_its_blocks_from_others(pool):
    addresses = pool.alloc_mem(2, HBM)
    pool.insert(tokens(2), addresses, "tenant")
    assert pool.match(tokens(2)).blocks == 0
    assert pool.match(tokens(2), "tenant").blocks == 2
    assert pool.delete(tokens(2)) == 0


def test_inserting_the_same_blocks_again_changes_nothing(pool):
    addresses, _ = pool.published(tokens(3))
    before = state(pool)
    assert pool.insert(tokens(3), addresses) == []
    assert state(pool) == before


def test_blocks_of_a_published_prefix_come_back_to_be_freed(pool):
    first, data = pool.published(tokens(2))
    second = pool.alloc_mem(3, HBM)
    pool.filled(second)
    returned = pool.insert(tokens(3), second)
    assert returned == [second[:2]]
    pool.free_mem(returned)
    assert pool.used(HBM) == (5, 0, 3)
    with pool.match(tokens(3)) as found:
        assert found.addresses == [Addresses(first.owner, [*first.blocks, *second.blocks[2:]])]
        assert torch.equal(pool.stored(found.addresses)[:2], data)


def test_the_same_prefix_in_the_other_medium_is_a_second_copy(pool):
    pool.published(tokens(2), DRAM)
    pool.published(tokens(2), HBM)
    assert pool.used(HBM) == (6, 0, 2)
    assert pool.used(DRAM) == (6, 0, 2)
    assert pool.copies(tokens(2)) == (2, [HBM])


def test_the_tail_of_a_sequence_is_inserted_where_its_head_is_published(pool):
    pool.published(tokens(2))
    tail = pool.alloc_mem(1, DRAM)
    pool.insert(tokens(3), tail)
    assert pool.copies(tokens(3)) == (3, [HBM, DRAM])


def _free(pool):
    addresses = pool.alloc_mem(2, HBM)
    pool.free_mem(addresses)
    return addresses


def _of_other_tokens(pool):
    return pool.published(tokens(2, first=90))[0]


def _unpublished_under_a_lease(pool):
    addresses, _ = pool.published(tokens(2, first=90))
    pool.match(tokens(2, first=90))
    pool.delete(tokens(2, first=90))
    return addresses


def _named_twice(pool):
    addresses = pool.alloc_mem(1, HBM)
    return Addresses(addresses.owner, [*addresses.blocks] * 2)


def _too_many(pool):
    return pool.alloc_mem(3, HBM)


def _not_there(pool):
    return Addresses(Owner("a", 1, HBM), [7, 8])


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (_free, BadAddress),
        (_of_other_tokens, BadAddress),
        (_unpublished_under_a_lease, BadAddress),
        (_named_twice, BadAddress),
        (_not_there, BadAddress),
        (_too_many, ValueError),
    ],
)
def test_publishing_others_blocks_is_refused_without_effect(pool, given, error):
    addresses = given(pool)
    mine = pool.alloc_mem(1, DRAM)
    before = state(pool)
    with pytest.raises(error):
        pool.insert(tokens(len(addresses) if error is BadAddress else 2), addresses)
    with pytest.raises(error):
        pool.insert(tokens(len(addresses) + 1 if error is BadAddress else 3), [mine, addresses])
    assert state(pool) == before
    assert pool.copies(tokens(2))[0] == 0


def test_blocks_after_a_gap_are_refused(pool):
    addresses = pool.alloc_mem(1, HBM)
    with pytest.raises(ValueError, match="2 blocks before the first of these 1 are not indexed"):
        pool.insert(tokens(3), addresses)
    assert pool.used(HBM) == (7, 1, 0)
