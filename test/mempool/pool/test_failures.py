"""Peers that are silent, gone, unknown, stale or different."""

import threading

import msgspec
import pytest
from small_blocks import DRAM, HBM, LAYOUT, tokens
from waiting import until

from mempool.address import Addresses
from mempool.errors import DeadlinePassed, LayoutMismatch, MemPoolError, PeerDied, Refused, StaleAddress

SCHEMES = ["inproc", "stream", "tcp", "ipc"]


def test_an_instance_that_never_answers_costs_no_more_than_the_deadline(world, deaf):
    a = world.pool("a")
    b = msgspec.structs.replace(a.info, instance="b", control=deaf, data=deaf)
    a.introduce(b)
    own, _ = a.filled(2)
    with pytest.raises(DeadlinePassed):
        a.alloc_mem(1, DRAM, "b", timeout_s=0.2)
    with pytest.raises(DeadlinePassed):
        a.free_mem(Addresses(own.owner._replace(instance="b"), [1]), timeout_s=0.2)
    with pytest.raises(DeadlinePassed):
        a.transfer("b", own, timeout_s=0.2)
    a.free_mem(own)
    assert a.lacks_nothing(HBM)
    assert a.counters()["outgoing"] == 0


@pytest.mark.parametrize("where", ["control_url", "data_url"])
def test_a_pool_that_cannot_listen_leaves_no_thread_behind(world, where):
    threads = threading.active_count()
    with pytest.raises(MemPoolError, match="no transport"):
        world.lonely("a", **{where: "carrier-pigeon://nowhere"})
    assert threading.active_count() == threads


def test_a_closed_pool_begins_no_transfer(world):
    a, b = world.pool("a"), world.pool("b")
    own, _ = a.filled(1)
    a.close()
    for begun in (a.start.transfer("b", own), a.start.fetch("b", tokens(1))):
        assert isinstance(begun.exception(10), PeerDied)
    assert (a.counters()["outgoing"], a.counters()["fetching"]) == (0, 0)
    assert b.lacks_nothing()


def test_both_sides_give_up_missing_blocks_at_the_deadline(world, deaf):
    a, b = world.pair()
    a.introduce(msgspec.structs.replace(b.info, data=deaf))
    own, _ = a.filled(2)
    with pytest.raises(DeadlinePassed):
        a.transfer_with_insert("b", tokens(2), own, timeout_s=0.3)
    a.free_mem(own)
    assert a.lacks_nothing(HBM)
    until(lambda: b.counters()["incoming"] == 0)
    assert b.lacks_nothing()
    assert b.counters()["leases"] == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_instance_that_has_gone_is_dead_at_once(world, scheme):
    a, b = world.pair(scheme)
    own, _ = a.filled(1)
    a.transfer("b", own)
    b.close()
    with pytest.raises(PeerDied):
        a.alloc_mem(1, DRAM, "b", timeout_s=20)
    with pytest.raises(PeerDied):
        a.transfer("b", own, timeout_s=20)


def test_an_instance_that_is_not_known_is_dead(world):
    a = world.pool("a")
    own, _ = a.filled(1)
    there = Addresses(own.owner._replace(instance="nobody"), [1])
    for call in (
        lambda: a.alloc_mem(1, DRAM, "nobody"),
        lambda: a.free_mem(there),
        lambda: a.transfer("nobody", own),
        lambda: a.transfer_with_insert("nobody", tokens(1), own, there),
    ):
        with pytest.raises(PeerDied, match="not known"):
            call()
    a.free_mem(own)
    assert a.lacks_nothing(HBM)


def test_addresses_of_an_instance_that_started_anew_are_stale(world):
    a, b = world.pair()
    old = a.alloc_mem(2, DRAM, "b")
    own, _ = a.filled(2)
    b.close()
    world.pools.remove(b)
    new = world.pool("b")
    with pytest.raises(StaleAddress, match="the present incarnation"):
        a.free_mem(old)
    with pytest.raises(StaleAddress, match="the present incarnation"):
        a.transfer("b", own, old)
    assert new.lacks_nothing()
    # The new one refuses by itself what its caller does not know to be stale.
    claimed = msgspec.structs.replace(new.info, incarnation=old.owner.incarnation)
    a.introduce(claimed)
    with pytest.raises(StaleAddress):
        a.free_mem(old)
    with pytest.raises(StaleAddress):
        a.transfer("b", own, old)


def test_an_instance_that_started_anew_holds_nothing_of_its_former_life(world):
    a, b = world.pair()
    b.alloc_mem(3, DRAM, "a")
    assert a.used(DRAM) == (13, 3, 0)
    b.close()
    world.pools.remove(b)
    world.pool("b")
    assert a.lacks_nothing()
    assert a.counters()["held_blocks"] == 0


def test_an_instance_of_another_layout_is_refused(world):
    a, b = world.pair()
    other = msgspec.structs.replace(LAYOUT, layers=4)
    with pytest.raises(LayoutMismatch, match="layers: 3 here, 4"):
        a.introduce(msgspec.structs.replace(b.info, instance="c", layout=other))
    own, _ = a.filled(1)
    a.local.layout = other
    with pytest.raises(Refused, match="layouts differ in layers"):
        a.transfer("b", own)
    assert b.lacks_nothing()


def test_closing_ends_what_is_under_way_and_what_comes_after(world, deaf):
    a, b = world.pair()
    a.introduce(msgspec.structs.replace(b.info, instance="deaf", control=deaf))
    a.introduce(msgspec.structs.replace(b.info, instance="half", data=deaf))
    own, _ = a.filled(2)
    under_way = [
        a.start.alloc_mem(1, DRAM, "deaf", timeout_s=60),
        a.start.transfer("deaf", own, timeout_s=60),
        a.start.transfer("half", own, timeout_s=60),
    ]
    until(lambda: b.counters()["incoming"] == 1)
    a.close()
    for future in under_way:
        assert isinstance(future.exception(20), PeerDied)
    assert isinstance(a.start.alloc_mem(1, DRAM, "b").exception(20), PeerDied)
    assert isinstance(a.start.transfer("b", own).exception(20), PeerDied)
    a.close()


def test_a_receiver_that_closes_keeps_no_sender_waiting(slow_pair):
    a, b, slow = slow_pair
    own, _ = a.filled(2)
    under_way = a.start.transfer("b", own, timeout_s=60)
    assert slow.entered.wait(20)
    closing = threading.Thread(target=b.close)
    closing.start()
    slow.open.set()
    # It may have landed a moment before.
    assert isinstance(under_way.exception(20), PeerDied | Refused | None)
    closing.join(20)
    a.free_mem(own)
    assert a.lacks_nothing(HBM)
