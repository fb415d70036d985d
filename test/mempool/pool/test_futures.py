"""The calls as futures."""

from concurrent.futures import wait

import torch
from small_blocks import DRAM, HBM, tokens
from waiting import until

from mempool.address import Addresses
from mempool.errors import OutOfBlocks, PeerDied, StaleAddress


def test_every_call_has_a_future(world):
    a, b = world.pair()
    own = a.start.alloc_mem(4, HBM).result(20)
    assert a.start.insert(tokens(4), own).result(20) == []
    landing = [a.start.transfer_with_insert("b", tokens(4), own), a.start.transfer("b", own)]
    assert not wait(landing, 20).not_done
    a.start.free_mem(landing[1].result().addresses).result(20)
    assert b.used(DRAM) == (12, 0, 4)
    assert a.start.swap_out(4).result(20) == 4
    with a.start.match(tokens(4)).result(20) as found:
        assert len(a.start.swap_in(found.addresses[0]).result(20)) == 4
    assert a.start.delete(tokens(4)).result(20) == 4
    there = a.start.alloc_mem(1, DRAM, "b").result(20)
    a.start.free_mem(there).result(20)
    spare = a.start.alloc_mem(1).result(20)
    a.start.free_mem(spare).result(20)
    assert a.lacks_nothing(HBM)


def test_what_a_call_raises_its_future_holds(world):
    a, _ = world.pair()
    own, _ = a.filled(1)
    stale = Addresses(own.owner._replace(incarnation=1), own.blocks)
    for future, error in [
        (a.start.alloc_mem(17), OutOfBlocks),
        (a.start.alloc_mem(17, DRAM, "b"), OutOfBlocks),
        (a.start.alloc_mem(1, DRAM, "c"), PeerDied),
        (a.start.transfer("b", stale), StaleAddress),
        (a.start.transfer("c", own), PeerDied),
        (a.start.transfer_with_insert("b", [-1] * 4, own), ValueError),
        (a.start.insert([1] * 4, stale), StaleAddress),
    ]:
        assert isinstance(future.exception(20), error)


def test_many_transfers_at_once_each_land(world):
    a, b = world.pair("tcp")
    own, data = a.filled(12)
    running = [a.start.transfer("b", own[n : n + 1], private=b"%d" % n) for n in range(12)]
    for number, future in enumerate(running):
        landed = future.result(20)
        assert landed.private == b"%d" % number
        assert torch.equal(b.stored(landed.addresses), data[number : number + 1])


def test_a_transfer_whose_future_was_cancelled_harms_nobody(slow_pair):
    a, _, slow = slow_pair
    own, _ = a.filled(2)
    cancelled = a.start.transfer("b", own)
    assert slow.entered.wait(20)
    assert cancelled.cancel()
    slow.open.set()
    a.transfer("b", own)
    a.free_mem(own)
    until(lambda: a.lacks_nothing(HBM))
