"""A prefix that several instances have comes from all of them, each its part."""

import threading

import pytest
import torch
from small_blocks import DRAM, HBM, LAYOUT, PAGE, tokens
from waiting import until

from mempool.engine import EngineHbm
from mempool.errors import DeadlinePassed, OutOfBlocks, PeerDied, Refused
from mempool.flags import TransferFlags
from mempool.remote.messages import FetchEnded, FetchReply, Offer
from mempool.sources import FetchSource
from mempool.tiers.tier import dram_arena

NAMES = ("b", "c", "d")
ALL = [FetchSource(name) for name in NAMES]


class Three:
    """a, and three that have published the same 12 blocks of tokens, each with bytes of its own."""

    def __init__(self, world, scheme="inproc", **how_a):
        self.a = world.pool("a", scheme, **how_a)
        self.sources = [world.pool(name, scheme) for name in NAMES]
        self.data = [source.published(tokens(12))[1] for source in self.sources]

    def sent(self):
        return [source.counters()["bytes_sent"] // LAYOUT.block_bytes for source in self.sources]

    def nothing_is_left(self, published):
        """But `published` blocks; everything else is as before the fetch."""

        def settled():
            counters = self.a.counters()
            return (
                self.a.used(DRAM) == (16 - published, 0, published)
                and not any(counters[name] for name in ("fetching", "incoming", "leases", "held_blocks"))
                and not any(
                    source.counters()[name] for source in self.sources for name in ("outgoing", "leases")
                )
            )

        until(settled)


@pytest.fixture
def three(world):
    return Three(world)


def stand_still(pool):
    """From now on it answers nothing that it is asked, until the event is set."""
    fetching, go_on = pool._exchange.fetching, threading.Event()
    fetching.answer, answer = lambda *given: go_on.wait(20) and answer(*given), fetching.answer
    return go_on


def thirds(data):
    return torch.cat([data[0][:4], data[1][4:8], data[2][8:]])


@pytest.mark.parametrize("scheme", ["inproc", "stream", "tcp"])
def test_each_source_sends_its_part_and_all_is_published(world, scheme):
    three = Three(world, scheme)
    assert three.a.fetch(ALL, tokens(13)[: 12 * PAGE + 1]) == 12
    assert torch.equal(three.a.found(tokens(12)), thirds(three.data))
    assert three.sent() == [4, 4, 4]
    assert three.a.counters()["lost_parts"] == 0
    three.nothing_is_left(12)


def test_what_is_here_is_not_sent_and_the_rest_is_shared(three):
    here, mine = three.a.filled(6, DRAM)
    three.a.insert(tokens(6), here)
    assert three.a.fetch(ALL, tokens(12)) == 12
    assert torch.equal(three.a.found(tokens(12))[:6], mine)
    assert three.sent() == [2, 2, 2]
    assert three.a.fetch(ALL, tokens(12)) == 12
    assert three.sent() == [2, 2, 2]
    three.nothing_is_left(12)


def test_shorter_prefixes_send_the_parts_in_front(three):
    assert three.a.fetch([FetchSource("b"), FetchSource("c", 3), FetchSource("d", 0)], tokens(12)) == 12
    assert torch.equal(three.a.found(tokens(12)), torch.cat([three.data[1][:3], three.data[0][3:]]))
    assert three.sent() == [9, 3, 0]


def test_a_part_that_lands_early_waits_for_those_before_it(three):
    go_on = stand_still(three.sources[0])
    coming = three.a.start.fetch(ALL, tokens(12))
    until(lambda: three.a.used(DRAM) == (8, 8, 0))
    assert not coming.done()
    assert three.a.match(tokens(12)).blocks == 0
    go_on.set()
    assert coming.result(10) == 12
    assert torch.equal(three.a.found(tokens(12)), thirds(three.data))
    three.nothing_is_left(12)


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_dead_source_costs_its_part_and_what_lies_behind_it(three, dead):
    go_on = stand_still(three.sources[dead])
    coming = three.a.start.fetch(ALL, tokens(12), timeout_s=60)
    until(lambda: three.a.counters()["fetching"] == 1)
    three.a._cluster.forget(NAMES[dead], None)
    if dead:
        assert coming.result(10) == 4 * dead
    else:
        with pytest.raises(PeerDied):
            coming.result(10)
    assert torch.equal(
        three.a.found(tokens(12)), thirds(three.data)[: 4 * dead].reshape_as(three.a.found(tokens(12)))
    )
    assert three.a.counters()["lost_parts"] == 1
    go_on.set()
    three.nothing_is_left(4 * dead)


def test_a_source_that_is_too_slow_costs_the_deadline(three):
    go_on = stand_still(three.sources[1])
    assert three.a.fetch(ALL, tokens(12), timeout_s=1.0) == 4
    go_on.set()
    three.nothing_is_left(4)
    go_on = stand_still(three.sources[0])
    with pytest.raises(DeadlinePassed):
        three.a.fetch(ALL[:1], tokens(12), timeout_s=0.3)
    go_on.set()
    three.nothing_is_left(4)


def test_a_source_that_has_less_than_was_said_ends_it_there(three):
    three.sources[1].delete(tokens(6))
    assert three.a.match(tokens(6)).blocks == 0
    with_less = [FetchSource("b"), FetchSource("c", 12), FetchSource("d")]
    assert three.a.fetch(with_less, tokens(12), timeout_s=60) == 4
    assert three.a.counters()["lost_parts"] == 0
    three.nothing_is_left(4)
    three.sources[2].delete(tokens(12))
    three.sources[2].published(tokens(7))
    assert three.a.fetch([FetchSource("b", 5), FetchSource("d")], tokens(12), timeout_s=60) == 7
    three.nothing_is_left(7)


def test_a_part_that_is_shorter_than_asked_is_the_last(three):
    """What lies behind the gap is not taken for what belongs there."""
    go_on = stand_still(three.sources[0])
    three.sources[1].delete(tokens(12))
    _, data = three.sources[1].published(tokens(6))
    coming = three.a.start.fetch(ALL, tokens(12), timeout_s=60)
    until(lambda: three.a.counters()["fetching"] == 1)
    go_on.set()
    assert coming.result(10) == 6
    assert torch.equal(three.a.found(tokens(12)), torch.cat([three.data[0][:4], data[4:]]))
    three.nothing_is_left(6)


def test_blocks_that_came_by_another_way_meanwhile_are_kept_once(three):
    go_on = stand_still(three.sources[0])
    coming = three.a.start.fetch(ALL, tokens(12), timeout_s=60)
    until(lambda: three.a.counters()["fetching"] == 1)
    here, mine = three.a.filled(2, DRAM)
    three.a.insert(tokens(2), here)
    go_on.set()
    assert coming.result(10) == 12
    assert torch.equal(three.a.found(tokens(12)), torch.cat([mine, thirds(three.data)[2:]]))
    three.nothing_is_left(12)


def test_nothing_behind_a_lost_part_is_waited_for(three):
    events = [stand_still(source) for source in three.sources]
    coming = three.a.start.fetch(ALL, tokens(12), timeout_s=60)
    assert three.a.counters()["fetching"] == 3
    three.a._cluster.forget("c", None)
    until(lambda: three.a.counters()["fetching"] == 1)
    for event in reversed(events):
        event.set()
    assert coming.result(10) == 4
    three.nothing_is_left(4)


def test_sources_that_are_not_there_are_left_out(three):
    assert three.a.fetch([FetchSource("nobody"), *ALL[:2]], tokens(12)) == 12
    assert three.sent() == [6, 6, 0]
    with pytest.raises(PeerDied):
        three.a.fetch([FetchSource("nobody"), FetchSource("a")], tokens(20))


def test_no_room_here_ends_it_at_once(three):
    held = three.a.alloc_mem(13, DRAM)
    with pytest.raises(OutOfBlocks):
        three.a.fetch(ALL, tokens(12), timeout_s=60)
    three.a.free_mem(held)
    three.nothing_is_left(0)


def test_a_fetch_ends_where_all_was_unpublished_meanwhile(three):
    here, _ = three.a.filled(3, DRAM)
    three.a.insert(tokens(3), here)
    go_on = stand_still(three.sources[0])
    coming = three.a.start.fetch(ALL, tokens(12), timeout_s=60)
    until(lambda: three.a.counters()["fetching"] == 1)
    three.a.clear()
    go_on.set()
    assert coming.exception(10) is not None
    three.nothing_is_left(0)


def test_an_engine_is_asked_for_what_only_its_hbm_has(world):
    wanted = []
    engine = EngineHbm(on_received=lambda received: None, on_publish_request=wanted.append)
    a, b = world.pool("a"), world.pool("b")
    c = world.pool("c", stores={DRAM: dram_arena(LAYOUT, 16)}, engine=engine)
    _, data_b = b.published(tokens(6))
    coming = a.start.fetch([FetchSource("b"), FetchSource("c")], tokens(6), from_engine=True)
    until(lambda: wanted)
    _, data_c = c.published(tokens(6), DRAM)
    wanted[0].done()
    assert coming.result(10) == 6
    assert torch.equal(a.found(tokens(6)), torch.cat([data_b[:3], data_c[3:]]))


def test_an_engine_with_no_more_ends_it_before_the_deadline(world):
    wanted = []
    engine = EngineHbm(on_received=lambda received: None, on_publish_request=wanted.append)
    a, b = world.pool("a"), world.pool("b")
    world.pool("c", stores={DRAM: dram_arena(LAYOUT, 16)}, engine=engine)
    b.published(tokens(6))
    coming = a.start.fetch([FetchSource("b"), FetchSource("c")], tokens(6), from_engine=True, timeout_s=60)
    until(lambda: wanted)
    wanted[0].done()
    assert coming.result(10) == 3
    assert a.used(DRAM) == (13, 0, 3)


def test_nobody_delivers_or_ends_the_part_of_another(three):
    go_on = stand_still(three.sources[0])
    coming = three.a.start.fetch(ALL, tokens(12), timeout_s=60)
    until(lambda: three.a.counters()["fetching"] == 1)
    (cookie,) = three.a._exchange.fetching._pending
    stranger = three.sources[1]
    own, _ = stranger.filled(4, DRAM)
    stranger._exchange.requests.send(three.a.info.control, FetchEnded(cookie), 5.0).result(10)
    sent = stranger._exchange.sending.transfer(
        three.a.info, [own], None, TransferFlags(), cookie, None, "", 5.0, fetch=cookie
    )
    with pytest.raises(Refused):
        sent.result(10)
    assert not coming.done()
    go_on.set()
    assert coming.result(10) == 12
    assert torch.equal(three.a.found(tokens(12)), thirds(three.data))


@pytest.mark.parametrize("wrong", [{"count": 5}, {"medium": HBM}, {"blocks": b"\0\0\0\0"}, {"count": 0}])
def test_a_part_that_is_not_as_asked_is_refused(three, wrong):
    source = three.sources[0]
    source._exchange.fetching.answer = lambda *given: FetchReply(4)
    coming = three.a.start.fetch(ALL, tokens(12), timeout_s=60)
    until(lambda: three.a.counters()["fetching"] == 1)
    (cookie,) = three.a._exchange.fetching._pending
    offer = Offer(**{"layout": LAYOUT, "medium": DRAM, "count": 4, "fetch": cookie} | wrong)
    reply = source._exchange.requests.send(three.a.info.control, offer, 5.0).result(10)
    assert reply.kind == "Refused"
    source._exchange.requests.send(three.a.info.control, FetchEnded(cookie), 5.0).result(10)
    assert coming.result(10) == 0
    three.nothing_is_left(0)


def test_closing_ends_it_and_leaves_nothing(world):
    a, b = world.lonely("a"), world.pool("b", "stream")
    b.published(tokens(4))
    a.introduce(b.info)
    go_on = stand_still(b)
    coming = a.start.fetch([FetchSource("b")], tokens(4), timeout_s=60)
    assert not coming.done()
    a.close()
    with pytest.raises(PeerDied, match="stops"):
        coming.result(10)
    go_on.set()
