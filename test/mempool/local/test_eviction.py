"""Which blocks go, and which may not."""

import threading

import numpy as np
import pytest
import torch
from small_blocks import DRAM, HBM, PAGE, tokens

from mempool.address import Addresses, Owner
from mempool.errors import BadAddress, OutOfBlocks


def test_the_least_recently_used_goes_first(make):
    pool = make(dram=0)
    for first in (0, 100, 200):
        pool.published(tokens(2, first))
    pool.match(tokens(2, 0)).release()
    pool.alloc_mem(4, HBM)
    assert [pool.copies(tokens(2, first))[0] for first in (0, 100, 200)] == [2, 0, 2]


def test_alloc_in_hbm_moves_what_it_evicts_to_dram_with_its_bytes(pool):
    _, data = pool.published(tokens(6))
    pool.alloc_mem(5, HBM)
    assert pool.copies(tokens(6)) == (6, [HBM, DRAM])
    with pool.match(tokens(6)) as found:
        assert torch.equal(pool.stored(found.addresses), data)
    assert pool.used(HBM) == (0, 5, 3)
    assert pool.used(DRAM) == (5, 0, 3)


def test_what_finds_no_room_in_dram_is_dropped(make):
    pool = make(dram=2)
    _, data = pool.published(tokens(6))
    pool.alloc_mem(2, DRAM)
    pool.alloc_mem(5, HBM)
    assert pool.copies(tokens(6)) == (3, [HBM])
    assert torch.equal(pool.stored(pool.match(tokens(6)).addresses), data[:3])


def test_alloc_in_dram_drops_what_it_evicts(pool):
    pool.published(tokens(6), DRAM)
    pool.alloc_mem(5, DRAM)
    assert pool.copies(tokens(6)) == (3, [DRAM])
    assert pool.used(HBM) == (8, 0, 0)


def test_blocks_that_are_under_way_are_not_reused_before_they_land(pool):
    addresses = pool.alloc_mem(8, HBM)
    with pool.lock:
        pool.pin([addresses[:3]])
    pool.free_mem(addresses)
    assert len(pool.alloc_mem(5, HBM)) == 5
    with pytest.raises(OutOfBlocks):
        pool.alloc_mem(1, HBM)
    pool.unpin([addresses[:3]])
    assert len(pool.alloc_mem(3, HBM)) == 3


def test_taking_off_what_is_in_part_free_takes_nothing_off(pool):
    addresses = pool.alloc_mem(2, HBM)
    gone = pool.alloc_mem(2, DRAM)
    pool.free_mem(gone)
    with pytest.raises(BadAddress):
        pool.pin([addresses, gone])
    pool.free_mem(addresses)
    assert len(pool.alloc_mem(8, HBM)) == 8


def test_giving_up_frees_active_and_unpublishes_historical_kv(pool):
    addresses, _ = pool.published(tokens(2))
    pool.insert(tokens(4), pool.alloc_mem(2, HBM))
    with pool.match(tokens(4)) as found:
        whole = found.addresses
    active = pool.alloc_mem(2, DRAM)
    pool.give_up([*whole, active])
    assert pool.used(HBM) == (8, 0, 0)
    assert pool.used(DRAM) == (8, 0, 0)
    pool.give_up([addresses, active])


def test_giving_up_keeps_what_is_leased_and_what_others_hang_on(pool):
    head, _ = pool.published(tokens(2))
    pool.insert(tokens(4), pool.alloc_mem(2, HBM))
    other, _ = pool.published(tokens(2, 100))
    with pool.match(tokens(2, 100)):
        pool.give_up([head, other])
    assert pool.copies(tokens(4))[0] == 4
    assert pool.copies(tokens(2, 100))[0] == 2


def test_what_points_to_a_dead_instance_is_unpublished(pool):
    there = Owner("b", 5, DRAM)
    pool.insert(tokens(2), Addresses(there, [3, 4]))
    pool.insert(tokens(3), pool.alloc_mem(1, HBM))
    assert pool.copies(tokens(3)) == (3, [DRAM, HBM])
    assert pool.forget("b", keep_incarnation=5) == 0
    assert pool.forget("b") == 2
    assert pool.copies(tokens(3)) == (0, [])
    assert pool.used(HBM) == (8, 0, 0)


def test_many_threads_keep_the_books(pool):
    errors = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            own = tokens(int(rng.integers(1, 4)), first=100 * int(rng.integers(0, 4)))
            try:
                with pool.match(own) as found:
                    lacking = pool.alloc_mem(len(own) // PAGE - found.blocks, rng.choice([HBM, DRAM]))
                    pool.free_mem(pool.insert(own, lacking) if len(lacking) else lacking)
                if rng.random() < 0.2:
                    pool.delete(own)
                pool.swap_out(int(rng.integers(0, 3)))
            except OutOfBlocks:
                continue
            except ValueError:
                # Another deleted the head meanwhile.
                pool.free_mem(lacking)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert pool.counts(HBM).active == pool.counts(DRAM).active == 0
