import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mempool.address import Addresses, Medium, Owner
from mempool.errors import BadAddress, OutOfBlocks, StaleAddress
from mempool.tiers.allocator import BlockAllocator

OWNER = Owner("a", 7, Medium.HBM)


@pytest.fixture
def allocator():
    return BlockAllocator(OWNER, 8)


def counts(allocator):
    assert allocator.free_blocks + allocator.active_blocks + allocator.historical_blocks == allocator.total
    return allocator.free_blocks, allocator.active_blocks, allocator.historical_blocks


def test_a_block_is_free_then_active_then_historical_then_free(allocator):
    given_out = allocator.alloc(3)
    assert counts(allocator) == (5, 3, 0)
    allocator.publish(given_out)
    assert counts(allocator) == (5, 0, 3)
    allocator.retire(given_out)
    assert counts(allocator) == (8, 0, 0)


def test_a_fresh_medium_gives_out_neighbours(allocator):
    assert allocator.alloc(3).blocks.tolist() == [0, 1, 2]
    assert allocator.alloc(2).blocks.tolist() == [3, 4]


def test_blocks_that_come_back_are_given_out_in_the_same_order(allocator):
    allocator.free(allocator.alloc(5)[1:4])
    assert allocator.alloc(3).blocks.tolist() == [1, 2, 3]


def test_it_gives_all_or_nothing(allocator):
    allocator.alloc(6)
    with pytest.raises(OutOfBlocks, match=r"hbm of a \(incarnation 7\): 3 blocks asked, 2 of 8 are free"):
        allocator.alloc(3)
    assert counts(allocator) == (2, 6, 0)
    assert len(allocator.alloc(2)) == 2


def test_nothing_is_a_legal_amount(allocator):
    allocator.free(allocator.alloc(0))
    with pytest.raises(ValueError, match="-1 blocks"):
        allocator.alloc(-1)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([0, 1, 6], "block 6 is free"),
        ([2, 0], "block 2 is historical KV"),
        ([0, 1, 0], "block 0 is named twice"),
        ([0, 8], "no block 8"),
        ([-1, 0], "no block -1"),
    ],
)
def test_what_is_not_the_callers_is_refused_and_changes_nothing(allocator, blocks, message):
    allocator.publish(allocator.alloc(4)[2:])
    before = counts(allocator)
    with pytest.raises(BadAddress, match=message):
        allocator.free(Addresses(OWNER, blocks))
    assert counts(allocator) == before
    allocator.free(Addresses(OWNER, [0, 1]))


def test_freeing_twice_is_refused(allocator):
    addresses = allocator.alloc(2)
    allocator.free(addresses)
    with pytest.raises(BadAddress, match="block 0 is free"):
        allocator.free(addresses)


@pytest.mark.parametrize(
    ("owner", "error"),
    [
        (OWNER._replace(incarnation=6), StaleAddress),
        (OWNER._replace(incarnation=8), StaleAddress),
        (OWNER._replace(instance="b"), BadAddress),
        (OWNER._replace(medium=Medium.DRAM), BadAddress),
    ],
)
def test_addresses_of_another_owner_or_incarnation_are_refused(allocator, owner, error):
    blocks = allocator.alloc(1).blocks
    for call in (allocator.free, allocator.publish, allocator.retire, allocator.pin):
        with pytest.raises(error) as raised:
            call(Addresses(owner, blocks))
        assert isinstance(raised.value, StaleAddress) == (error is StaleAddress)
    assert counts(allocator) == (7, 1, 0)


@pytest.mark.parametrize("historical", [False, True])
def test_a_block_in_flight_is_not_reused_before_it_lands(allocator, historical):
    addresses = allocator.alloc(8)
    if historical:
        allocator.publish(addresses)
    allocator.pin(addresses[2:4])
    allocator.pin(addresses[3:5])
    (allocator.retire if historical else allocator.free)(addresses)
    assert allocator.free_blocks == 5
    with pytest.raises(BadAddress, match="block 2 is given back already"):
        allocator.free(addresses[2:3])
    allocator.unpin(addresses[2:4])
    assert sorted(allocator.alloc(6).blocks.tolist()) == [0, 1, 2, 5, 6, 7]
    allocator.unpin(addresses[3:5])
    assert sorted(allocator.alloc(2).blocks.tolist()) == [3, 4]
    assert counts(allocator) == (0, 8, 0)


def test_a_block_that_lands_before_it_is_freed_stays_what_it_was(allocator):
    addresses = allocator.alloc(2)
    allocator.pin(addresses)
    allocator.unpin(addresses)
    assert counts(allocator) == (6, 2, 0)
    allocator.publish(addresses)
    allocator.retire(addresses)
    assert counts(allocator) == (8, 0, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["alloc", "free", "publish", "retire", "fly", "land"]), st.integers(0, 9))
    )
)
def test_the_books_agree_with_plain_sets_whatever_is_called(calls):
    allocator = BlockAllocator(OWNER, 8)
    active, historical, flying = set(), set(), []
    for call, number in calls:
        if call == "alloc" and number <= allocator.free_blocks:
            got = set(allocator.alloc(number).blocks.tolist())
            in_flight = {block for flight in flying for block in flight}
            assert len(got) == number
            assert not got & (active | historical | in_flight)
            active |= got
        elif call == "land" and flying:
            allocator.unpin(Addresses(OWNER, sorted(flying.pop())))
        elif call == "fly" and active | historical:
            flying.append(set(sorted(active | historical)[: number + 1]))
            allocator.pin(Addresses(OWNER, sorted(flying[-1])))
        elif call in ("free", "publish", "retire"):
            source = historical if call == "retire" else active
            moved = set(sorted(source)[:number])
            getattr(allocator, call)(Addresses(OWNER, np.array(sorted(moved), dtype=np.int32)))
            source -= moved
            if call == "publish":
                historical |= moved
        counts(allocator)
    for flight in flying:
        allocator.unpin(Addresses(OWNER, sorted(flight)))
    assert counts(allocator) == (8 - len(active) - len(historical), len(active), len(historical))
