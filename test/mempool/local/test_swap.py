"""Blocks between HBM and DRAM, with their bytes."""

import threading

import pytest
import torch
from small_blocks import DRAM, HBM, tokens

from mempool.errors import BadAddress, OutOfBlocks, StaleAddress


def state(pool):
    return pool.used(HBM), pool.used(DRAM), pool.index.nodes


def test_swapped_out_blocks_are_in_dram_and_swapped_in_ones_in_both(pool):
    _, data = pool.published(tokens(5))
    assert pool.swap_out(5) == 5
    assert pool.copies(tokens(5)) == (5, [DRAM])
    assert pool.used(HBM) == (8, 0, 0)
    with pool.match(tokens(5)) as found:
        assert torch.equal(pool.stored(found.addresses), data)
        back = pool.swap_in(found.addresses[0][1:4])
    assert torch.equal(pool.stored(back), data[1:4])
    assert pool.copies(tokens(5)) == (5, [DRAM, HBM, DRAM])
    assert pool.used(HBM) == (5, 0, 3)
    assert pool.used(DRAM) == (3, 0, 5)


def test_a_block_that_is_in_dram_already_leaves_hbm_without_another_copy(pool):
    pool.published(tokens(3), DRAM)
    pool.published(tokens(3), HBM)
    assert pool.swap_out(3) == 3
    assert pool.used(DRAM) == (5, 0, 3)
    assert pool.copies(tokens(3)) == (3, [DRAM])


def test_swap_out_stops_at_what_is_leased(pool):
    pool.published(tokens(3, 0))
    pool.published(tokens(3, 100))
    with pool.match(tokens(3, 0)):
        assert pool.swap_out(6) == 3
    assert pool.copies(tokens(3, 0)) == (3, [HBM])
    assert pool.swap_out(6) == 3
    assert pool.swap_out(6) == 0


def test_swap_in_makes_room_and_never_at_the_cost_of_what_is_leased(make):
    pool = make(hbm=4)
    pool.published(tokens(4, 0))
    pool.swap_out(4)
    _, other = pool.published(tokens(4, 100))
    with pool.match(tokens(4, 0)) as low, pool.match(tokens(4, 100)) as high:
        with pytest.raises(OutOfBlocks):
            pool.swap_in(low.addresses[0])
        assert torch.equal(pool.stored(high.addresses), other)
    with pool.match(tokens(4, 0)) as low:
        pool.swap_in(low.addresses[0])
    assert pool.copies(tokens(4, 0)) == (4, [HBM])
    assert pool.copies(tokens(4, 100)) == (4, [DRAM])


def test_what_is_not_published_cannot_be_swapped_in(pool):
    addresses = pool.alloc_mem(2, DRAM)
    with pytest.raises(BadAddress, match="not published"):
        pool.swap_in(addresses)
    assert pool.used(HBM) == (8, 0, 0)


def test_swapping_in_what_is_in_hbm_already_takes_no_blocks(pool):
    addresses, _ = pool.published(tokens(2), DRAM)
    pool.swap_in(addresses)
    with pytest.raises(BadAddress, match="swapped in by another"):
        pool.swap_in(addresses)
    assert pool.used(HBM) == (6, 0, 2)


class Gate:
    """Lets nothing read from a store before the test says so."""

    def __init__(self, store):
        self.entered, self.open = threading.Event(), threading.Event()
        self._gather, store.gather = store.gather, self._wait

    def _wait(self, *arguments):
        self.entered.set()
        assert self.open.wait(20)
        return self._gather(*arguments)


@pytest.mark.parametrize("swap", ["out", "in"])
def test_a_new_incarnation_during_a_swap_leaves_nothing_behind(pool, swap):
    addresses, _ = pool.published(tokens(3), HBM if swap == "out" else DRAM)
    gate = Gate(pool.tier(addresses.medium).store)
    ended = []

    def run():
        try:
            ended.append(pool.swap_out(3) if swap == "out" else pool.swap_in(addresses))
        except StaleAddress as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert gate.entered.wait(20)
    pool.reset_incarnation(2)
    gate.open.set()
    thread.join(20)
    assert ended == [0] if swap == "out" else isinstance(ended[0], StaleAddress)
    assert state(pool) == ((8, 0, 0), (8, 0, 0), 0)


def test_what_was_given_out_before_the_instance_began_anew_is_stale(pool):
    addresses = pool.alloc_mem(2, HBM)
    pool.published(tokens(3))
    lease = pool.match(tokens(3))
    pool.reset_incarnation(2)
    assert state(pool) == ((8, 0, 0), (8, 0, 0), 0)
    lease.release()
    with pytest.raises(StaleAddress, match="the present incarnation is 2"):
        pool.free_mem(addresses)
    assert pool.alloc_mem(1, HBM).owner.incarnation == 2
