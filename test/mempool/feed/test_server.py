"""Followers of a feed, over real sockets."""

import pytest
from index_mirror import Mirror

from mempool.address import Medium
from mempool.errors import MemPoolError
from mempool.feed.messages import (
    MAX_EVENTS,
    MAX_REQUEST_BYTES,
    EventBatch,
    FeedRequest,
    SnapshotReply,
    Unknown,
    encode,
)
from mempool.feed.server import FeedServer

PAGE, INCARNATION = 4, 7
LONG = 60.0


def test_a_newcomer_gets_a_snapshot_and_then_the_events(source, follower):
    source.insert("ab", 1, 2)
    whole = follower.request(-1)
    assert isinstance(whole, SnapshotReply)
    assert whole.incarnation == INCARNATION
    mirror = Mirror(PAGE)
    mirror.apply(whole.snapshot)
    assert mirror.tree.nodes == 1
    source.insert("abc", 3)
    source.insert("x", 4)
    batch = follower.request(mirror.seq)
    assert isinstance(batch, EventBatch)
    for event in batch.events:
        mirror.apply(event)
    assert mirror.seq == source.index.snapshot().seq == 2
    assert [holder.blocks for holder in mirror.holders.values()] == [4]
    assert follower.request(mirror.seq).events == []


def test_before_anybody_asks_nothing_is_kept(source, follower):
    source.insert("a", 1)
    assert source.index.events_since(0) is None
    follower.request(-1)
    assert source.index.events_since(0) == []


def test_an_answer_that_was_lost_is_had_by_asking_again(source, follower):
    follower.request(-1)
    source.insert("a", 1)
    source.insert("b", 2)
    lost = follower.request(0)
    assert follower.request(0).events == lost.events
    assert [event.seq for event in follower.request(1).events] == [2]


def test_a_follower_that_fell_behind_gets_a_snapshot(make_source, make_server, make_follower):
    short = make_source(log_events=2)
    follower = make_follower(make_server({Medium.DRAM: short.feed}))
    follower.request(-1)
    for n, letter in enumerate("abc"):
        short.insert(letter, n)
    assert isinstance(follower.request(0), SnapshotReply)
    assert isinstance(follower.request(1), EventBatch)
    # As of a server that forgot more than its followers know.
    assert isinstance(follower.request(9), SnapshotReply)


def test_another_incarnation_gets_a_snapshot(source, follower):
    follower.request(-1)
    assert isinstance(follower.request(0), EventBatch)
    whole = follower.request(0, incarnation=6)
    assert (type(whole), whole.incarnation) == (SnapshotReply, INCARNATION)


def test_who_waits_hears_of_a_new_incarnation_at_once(source, follower):
    follower.request(-1)
    follower.send(0, wait=LONG)
    source.reset_incarnation()
    whole = follower.answer()
    assert (type(whole), whole.incarnation) == (SnapshotReply, INCARNATION + 1)
    follower.send(0, incarnation=INCARNATION + 1, wait=LONG)
    source.insert("a", 1)
    assert len(follower.answer().events) == 1


def test_news_ends_the_wait_and_so_does_its_end(source, follower):
    follower.request(-1)
    assert follower.request(0, wait=0.02).events == []
    for n, letter in enumerate("ab"):
        follower.send(n, wait=LONG)
        assert not follower.socket.poll(30)
        source.insert(letter, n)
        assert [event.seq for event in follower.answer().events] == [n + 1]


def test_news_of_a_medium_reaches_all_its_waiting_followers(make_source, make_server, make_follower):
    dram, hbm = make_source(), make_source()
    server = make_server({Medium.DRAM: dram.feed, Medium.HBM: hbm.feed})
    followers = [make_follower(server) for _ in range(3)]
    for each in followers:
        for medium in Medium:
            each.request(-1, medium=medium)
            each.send(0, medium=medium, wait=LONG)
    dram.insert("a", 1)
    assert [len(each.answer().events) for each in followers] == [1, 1, 1]
    assert not any(each.socket.poll(20) for each in followers)
    hbm.insert("b", 2)
    assert all(len(each.answer().events) == 1 for each in followers)


def test_of_one_follower_only_the_latest_ask_waits(source, follower):
    follower.request(-1)
    follower.send(0, wait=LONG)
    follower.send(0, wait=LONG)
    assert follower.request(0).events == []
    follower.send(0, wait=LONG)
    source.insert("a", 1)
    assert follower.answer().number == follower.number
    assert not follower.socket.poll(20)


def test_where_too_many_wait_the_first_waits_no_more(source, make_server, make_follower):
    server = make_server({Medium.DRAM: source.feed}, max_waiting=2)
    followers = [make_follower(server) for _ in range(3)]
    for each in followers:
        each.request(-1)
    first, second, third = followers
    first.send(0, wait=LONG)
    # What is answered after it was taken after it.
    assert first.request(0, medium=Medium.HBM).number
    second.send(0, wait=LONG)
    second.request(0, medium=Medium.HBM)
    third.send(0, wait=LONG)
    assert first.answer().events == []
    source.insert("a", 1)
    assert [len(each.answer().events) for each in (second, third)] == [1, 1]


def test_a_medium_that_is_not_there_is_said_so(follower):
    answer = follower.request(-1, medium=Medium.HBM)
    assert isinstance(answer, Unknown)
    assert "hbm" in answer.reason


def test_bad_frames_are_counted_and_harm_nobody(server, follower, make_follower):
    good = encode(FeedRequest(1, Medium.DRAM, INCARNATION, -1))
    bad = [[b"junk"], [b""], [good[:-1]], [good, good], [b"", good], [good.replace(b"\xff", b"\xfe")]]
    for frames in bad:
        follower.socket.send_multipart(frames)
    assert isinstance(follower.request(-1), SnapshotReply)
    assert server.bad_frames == len(bad)
    other = make_follower(server)
    other.socket.send(b"x" * (MAX_REQUEST_BYTES + 1))
    assert isinstance(follower.request(-1), SnapshotReply)


def test_a_follower_that_does_not_read_delays_nobody(source, server, make_follower):
    source.insert("x" * 50_000, *range(50_000))
    deaf = make_follower(server, RCVHWM=1, RCVBUF=4096)
    for _ in range(100):
        deaf.send(-1)
    follower = make_follower(server)
    assert isinstance(follower.request(-1), SnapshotReply)
    got, last = 0, 0
    while last != deaf.number:
        if not deaf.socket.poll(200):
            deaf.send(-1)
            continue
        last, got = deaf.answer().number, got + 1
    assert got < 60


def test_many_events_come_in_portions(source, follower, monkeypatch):
    follower.request(-1)
    for n in range(MAX_EVENTS + 2):
        source.insert(chr(n + 1), n)
    batch = follower.request(0)
    assert len(batch.events) == MAX_EVENTS
    assert [event.seq for event in follower.request(batch.events[-1].seq).events] == [
        MAX_EVENTS + 1,
        MAX_EVENTS + 2,
    ]
    monkeypatch.setattr("mempool.feed.server._MAX_TOKEN_BYTES", 3 * PAGE * 4)
    assert [event.seq for event in follower.request(10).events] == [11, 12, 13]
    monkeypatch.setattr("mempool.feed.server._MAX_TOKEN_BYTES", 1)
    assert [event.seq for event in follower.request(10).events] == [11]


def test_what_no_follower_would_take_is_not_sent(source, follower, monkeypatch):
    source.insert("ab", 1, 2)
    monkeypatch.setattr("mempool.feed.server.MAX_REPLY_BYTES", 50)
    answer = follower.request(-1)
    assert isinstance(answer, Unknown)
    assert "at most 50" in answer.reason


def test_a_feed_that_fails_costs_one_answer(make_server, make_follower, source, monkeypatch):
    follower = make_follower(make_server({Medium.DRAM: source.feed}))
    monkeypatch.setattr(source.feed, "snapshot", lambda: 1 / 0)
    follower.send(-1, wait=0.01)
    assert not follower.socket.poll(50)
    monkeypatch.undo()
    assert isinstance(follower.request(-1), SnapshotReply)


def test_after_closing_the_index_goes_on(source, server):
    server.close()
    server.close()
    source.index.snapshot()
    source.insert("a", 1)
    assert len(source.index.events_since(0)) == 1


def test_an_endpoint_that_is_taken_is_refused_by_name(source, server):
    with pytest.raises(MemPoolError, match=server.endpoint):
        FeedServer(server.endpoint, {Medium.DRAM: source.feed})
    with pytest.raises(MemPoolError, match="nonsense"):
        FeedServer("nonsense", {Medium.DRAM: source.feed})
