"""What another instance has published comes to whoever asks for it."""

import threading

import numpy as np
import pytest
import torch
from small_blocks import DRAM, HBM, LAYOUT, PAGE, tokens
from waiting import until

from mempool.address import Addresses, Owner
from mempool.engine import EngineHbm
from mempool.errors import DeadlinePassed, OutOfBlocks, PeerDied, Refused, TransferError
from mempool.remote.messages import FetchEnded, FetchReply
from mempool.tiers.tier import dram_arena


@pytest.mark.parametrize("scheme", ["inproc", "stream", "tcp"])
@pytest.mark.parametrize("medium", [HBM, DRAM])
def test_it_is_published_here_when_the_call_returns(world, scheme, medium):
    a, b = world.pair(scheme)
    _, data = b.published(tokens(5), medium)
    assert a.fetch("b", np.append(tokens(5), 99)) == 5
    assert torch.equal(a.found(tokens(5)), data)
    assert a.used(DRAM) == (11, 0, 5)
    until(lambda: a.counters()["fetching"] == b.counters()["outgoing"] == b.counters()["leases"] == 0)


def test_what_is_here_already_is_not_sent(world):
    a, b = world.pair()
    _, data = b.published(tokens(5))
    here, _ = a.filled(2, DRAM)
    a.insert(tokens(2), here)
    assert a.fetch("b", tokens(5)) == 5
    assert torch.equal(a.found(tokens(5))[2:], data[2:])
    assert b.counters()["bytes_sent"] == 3 * LAYOUT.block_bytes
    assert a.fetch("b", tokens(5)) == 5
    assert b.counters()["bytes_sent"] == 3 * LAYOUT.block_bytes


def test_where_nothing_is_nothing_comes(world):
    a, b = world.pair()
    b.published(tokens(5))
    assert a.fetch("b", tokens(5)[::-1].copy()) == 0
    assert a.fetch("b", tokens(5), namespace="salt") == 0
    assert a.used(DRAM) == (16, 0, 0)


def test_what_the_other_one_only_points_to_is_not_its_to_send(world):
    a, b = world.pair()
    own, _ = b.filled(2)
    elsewhere = Addresses(Owner("c", 1, DRAM), [0, 1])
    b.insert(tokens(4), [own, elsewhere])
    assert a.fetch("b", tokens(4)) == 2


def test_an_engine_that_owns_its_hbm_fetches_to_dram(world):
    a = world.pool(
        "a", stores={DRAM: dram_arena(LAYOUT, 16)}, engine=EngineHbm(on_received=lambda received: None)
    )
    b = world.pool("b")
    _, data = b.published(tokens(3))
    assert a.fetch("b", tokens(3)) == 3
    assert torch.equal(a.found(tokens(3)), data)


def engine(world, name, wanted):
    """An engine that owns its HBM, and what others want of it."""
    stores = {DRAM: dram_arena(LAYOUT, 16)}
    engine = EngineHbm(on_received=lambda received: None, on_publish_request=wanted.append)
    return world.pool(name, stores=stores, engine=engine)


def test_a_fetch_waits_until_the_engine_has_published_its_hbm(world):
    wanted = []
    a, b = world.pool("a"), engine(world, "b", wanted)
    b.published(tokens(2), DRAM)
    coming = a.start.fetch("b", tokens(5), from_engine=True)
    until(lambda: wanted)
    assert (wanted[0].tokens.tolist(), wanted[0].published) == (tokens(5).tolist(), 2 * PAGE)
    rest, data = b.filled(3, DRAM)
    b.insert(tokens(5), rest)
    assert not coming.done()
    wanted[0].done()
    assert coming.result(10) == 5
    assert torch.equal(a.found(tokens(5))[2:], data)


def test_an_engine_without_more_sends_what_there_is(world):
    wanted = []
    a, b = world.pool("a"), engine(world, "b", wanted)
    nothing = a.start.fetch("b", tokens(3), from_engine=True, timeout_s=60)
    until(lambda: wanted)
    wanted.pop().done()
    assert nothing.result(10) == 0
    b.published(tokens(2), DRAM)
    some = a.start.fetch("b", tokens(3), from_engine=True, timeout_s=60)
    until(lambda: wanted)
    wanted.pop().done()
    assert some.result(10) == 2


def test_an_engine_is_not_asked_for_what_dram_has(world):
    wanted = []
    a, b = world.pool("a"), engine(world, "b", wanted)
    b.published(tokens(3), DRAM)
    assert a.fetch("b", np.append(tokens(3), 99), from_engine=True) == 3
    assert a.fetch("b", tokens(5)) == 3
    assert not wanted


def test_an_engine_that_never_answers_costs_the_deadline(world):
    wanted = []
    a, _ = world.pool("a"), engine(world, "b", wanted)
    with pytest.raises(DeadlinePassed):
        a.fetch("b", tokens(3), from_engine=True, timeout_s=0.3)
    wanted[0].done()
    assert a.counters()["fetching"] == 0


def test_an_end_that_another_instance_tells_ends_nothing(world):
    wanted = []
    a, _, c = world.pool("a"), engine(world, "b", wanted), world.pool("c")
    coming = a.start.fetch("b", tokens(3), from_engine=True, timeout_s=60)
    until(lambda: wanted)
    (cookie,) = a._exchange.fetching._pending
    c._exchange.requests.send(a.info.control, FetchEnded(cookie), 5.0).result(10)
    assert not coming.done()
    wanted[0].done()
    assert coming.result(10) == 0


def test_users_callback_hears_of_no_fetch(world):
    heard = []
    a, b = world.pool("a", on_received=heard.append), world.pool("b")
    b.published(tokens(3))
    a.fetch("b", tokens(3))
    assert not heard


def test_nobody_known_by_that_name(world):
    a, _ = world.pair()
    with pytest.raises(PeerDied):
        a.fetch("c", tokens(3))


def test_one_that_does_not_know_the_caller_says_so(world):
    a, b = world.pool("a"), world.lonely("b")
    b.published(tokens(3))
    a.introduce(b.info)
    with pytest.raises((Refused, PeerDied, TransferError)):
        a.fetch("b", tokens(3), timeout_s=5)
    b.close()


def test_a_fetch_that_finds_no_room_ends_by_its_deadline(world):
    a, b = world.pair()
    b.published(tokens(5))
    held = a.alloc_mem(13, DRAM)
    with pytest.raises((OutOfBlocks, DeadlinePassed)):
        a.fetch("b", tokens(5), timeout_s=0.5)
    assert a.counters()["fetching"] == a.counters()["incoming"] == 0
    a.free_mem(held)


def test_a_source_that_dies_ends_it_at_once(world):
    a, b = world.pair()
    b.published(tokens(5))
    asked = threading.Event()
    b._exchange.fetching.answer = lambda *given: asked.set() or FetchReply(5)
    coming = a.start.fetch("b", tokens(5), timeout_s=60)
    assert asked.wait(10)
    a._cluster.forget("b", None)
    with pytest.raises(PeerDied):
        coming.result(10)
