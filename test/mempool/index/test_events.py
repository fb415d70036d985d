import msgspec
import pytest
from index_mirror import Mirror

from mempool.address import Addresses
from mempool.index.events import AnyEvent, EventGap, Removed, Snapshot

PAGE = 4


def mirror_of(harness):
    mirror = Mirror(PAGE)
    mirror.apply(harness.index.snapshot())
    return mirror


def test_events_survive_the_wire(harness):
    mirror = mirror_of(harness)
    harness.insert("ab", 1, 2)
    harness.insert("a", 9, owner=harness.dram)
    (victim, *_) = harness.index.victims(harness.hbm, 1)
    harness.index.replace(victim, Addresses(harness.dram, [4]))
    harness.index.evict(harness.hbm, 9)
    harness.index.clear()
    sent = msgspec.msgpack.encode(harness.index.events_since(0))
    for event in msgspec.msgpack.decode(sent, type=list[AnyEvent]):
        mirror.apply(event)
    assert mirror.seq == 5
    assert mirror.tree.nodes == 0
    snapshot = msgspec.msgpack.encode(harness.index.snapshot())
    assert msgspec.msgpack.decode(snapshot, type=Snapshot) == harness.index.snapshot()


def test_a_negative_run_does_not_come_through_the_wire(harness):
    sent = msgspec.msgpack.encode(Removed(seq=1, run=-1, first=0, count=1, owner=harness.hbm))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(sent, type=AnyEvent)


def test_nothing_is_kept_before_somebody_listens(harness):
    harness.insert("ab", 1, 2)
    assert harness.index.events_since(0) is None
    assert harness.index.snapshot().seq == 0
    assert harness.index.events_since(0) == []


def test_a_listener_that_fell_behind_is_sent_for_a_snapshot(make_harness):
    short = make_harness(log_events=2)
    short.index.snapshot()
    for n, letter in enumerate("abc"):
        short.insert(letter, n)
    assert short.index.events_since(0) is None
    assert [event.seq for event in short.index.events_since(1)] == [2, 3]
    assert short.index.events_since(9) is None


def test_a_gap_says_what_was_expected_and_what_came(harness):
    mirror = mirror_of(harness)
    harness.insert("a", 1)
    harness.insert("b", 2)
    _, second = harness.index.events_since(0)
    with pytest.raises(EventGap, match="event 1 was expected, event 2 came") as caught:
        mirror.apply(second)
    assert (caught.value.expected, caught.value.seen) == (1, 2)
    with pytest.raises(EventGap, match="a snapshot first"):
        mirror.apply(second)
    mirror.apply(harness.index.snapshot())
    assert mirror.seq == 2
