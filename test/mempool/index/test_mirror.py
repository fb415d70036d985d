import msgspec
import pytest

from mempool.address import Addresses
from mempool.errors import FrameError
from mempool.index.events import AnyEvent, Moved, Removed, Snapshot, Stored
from mempool.index.mirror import EventGap, Mirror

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


def test_a_gap_is_told_with_what_was_expected_and_what_came(harness):
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


def test_a_mirror_takes_no_snapshot_of_other_pages(harness):
    with pytest.raises(FrameError, match="pages of 4 tokens, 8 here"):
        Mirror(8).apply(harness.index.snapshot())


BLOCK = b"\1\0\0\0" * PAGE


@pytest.mark.parametrize(
    "make",
    [
        lambda owner, store: Removed(seq=2, run=7, first=0, count=1, owner=owner),
        lambda owner, store: Removed(seq=2, run=0, first=0, count=3, owner=owner),
        lambda owner, store: Removed(seq=2, run=0, first=0, count=1, owner=owner),
        lambda owner, store: Moved(seq=2, run=0, first=0, source=owner, target=owner, blocks=b"\0" * 8),
        lambda owner, store: Moved(seq=2, run=0, first=0, source=owner, target=owner, blocks=b"\0" * 3),
        lambda owner, store: store(run=0),
        lambda owner, store: store(first=4),
        lambda owner, store: store(parent_run=5),
        lambda owner, store: store(tokens=BLOCK[:-1]),
        lambda owner, store: store(copies=[]),
        lambda owner, store: store(copies=[(owner, b"\0" * 8)]),
    ],
)
def test_an_event_that_cannot_be_true_is_refused(harness, make):
    mirror = mirror_of(harness)
    harness.insert("ab", 1, 2)
    for event in harness.index.events_since(0):
        mirror.apply(event)

    def store(**changes):
        good = {"namespace": "", "run": 1, "first": 0, "parent_run": -1, "parent_block": -1}
        return Stored(seq=2, **(good | {"tokens": BLOCK, "copies": [(harness.hbm, b"\0" * 4)]} | changes))

    with pytest.raises(FrameError):
        mirror.apply(make(harness.hbm, store))
    assert mirror.seq is None
