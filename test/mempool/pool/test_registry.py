"""Pools that find each other by a registry."""

import threading

import msgspec
import pytest
import torch
from small_blocks import DRAM, LAYOUT, tokens
from waiting import until

from mempool.errors import LayoutMismatch, NamespaceMismatch, PeerDied, StaleAddress
from mempool.membership.registry_server import MembershipRegistry
from mempool.tiers.tier import dram_arena


@pytest.fixture
def registry():
    registry = MembershipRegistry("tcp://127.0.0.1:0")
    yield registry.endpoint
    registry.close()


def _reaches(pool, instance):
    try:
        pool.free_mem(pool.alloc_mem(1, DRAM, instance))
    except PeerDied:
        return False
    return True


def test_members_find_each_other_and_free_what_the_dead_held(world, registry):
    a = world.pool("a", "tcp", registries=[registry])
    with world.lonely("b", registries=[registry]) as b:
        until(lambda: _reaches(b, "a"))
        b.alloc_mem(3, DRAM, "a")
        own, data = b.filled(2)
        b.transfer_with_insert("a", tokens(2), own)
        assert a.used(DRAM) == (11, 3, 2)
    until(lambda: a.used(DRAM) == (14, 0, 2))
    assert a.counters()["held_blocks"] == 0
    assert torch.equal(a.found(tokens(2)), data)
    with pytest.raises(PeerDied, match="not known"):
        a.alloc_mem(1, DRAM, "b")


def test_an_instance_that_does_not_fit_the_others_does_not_join(world, registry):
    world.pool("a", registries=[registry], namespace={"model": "m1"})
    threads = threading.active_count()
    with pytest.raises(NamespaceMismatch, match="model"):
        world.lonely("b", registries=[registry], namespace={"model": "m2"})
    other = msgspec.structs.replace(LAYOUT, page_size=8)
    with pytest.raises(LayoutMismatch, match="page_size"):
        world.lonely(
            "b", stores={DRAM: dram_arena(other, 2)}, registries=[registry], namespace={"model": "m1"}
        )
    assert threading.active_count() == threads


def test_an_instance_declared_dead_goes_on_as_a_new_incarnation(world):
    # Instances say that they live every half second: too seldom for this one.
    registry = MembershipRegistry("tcp://127.0.0.1:0", suspicion_s=0.1, death_s=0.3)
    try:
        with world.lonely("a", registries=[registry.endpoint]) as a:
            first = a.info.incarnation
            own = a.alloc_mem(3)
            until(lambda: a.local.incarnation != first)
            until(lambda: a.info.incarnation == a.local.incarnation)
            with pytest.raises(StaleAddress):
                a.free_mem(own)
    finally:
        registry.close()
