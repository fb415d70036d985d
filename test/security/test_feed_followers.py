"""A follower that does not read makes a feed keep no more than a bound."""

import contextlib
import tracemalloc

import zmq
from waiting import until

from mempool.address import Medium
from mempool.feed.messages import FeedRequest, decode_reply, encode
from mempool.feed.server import FeedServer
from mempool.index.events import Snapshot, Stored

REPLY_BYTES = 4 << 20


class LargeFeed:
    """Every request is answered with 4 MiB."""

    def __init__(self):
        place = {"run": 1, "first": 0, "parent_run": -1, "parent_block": -1}
        run = Stored(seq=1, namespace="", tokens=bytes(REPLY_BYTES), copies=[], **place)
        self._snapshot = Snapshot(seq=1, page_size=4, stored=[run])

    def events_after(self, incarnation, seq):
        return None

    def snapshot(self):
        return 7, self._snapshot

    def listen(self, on_news):
        return None


def request(number=1):
    return encode(FeedRequest(number, Medium.DRAM, 0, -1, 0.0))


def test_followers_that_do_not_read_leave_little_unread(open_things):
    feed = FeedServer("tcp://127.0.0.1:0", {Medium.DRAM: LargeFeed()}, max_unread_bytes=10 * REPLY_BYTES)
    open_things.callback(feed.close)
    context = zmq.Context()
    open_things.callback(context.destroy, linger=0)
    tracemalloc.start()
    open_things.callback(tracemalloc.stop)
    rogues = []
    for _ in range(20):
        rogue = context.socket(zmq.DEALER)
        rogue.linger, rogue.rcvhwm = 0, 1
        rogue.setsockopt(zmq.RCVBUF, 4096)
        rogue.connect(feed.endpoint)
        rogues.append(rogue)

    def refused():
        for rogue in rogues:
            with contextlib.suppress(zmq.Again):
                rogue.send(request(), zmq.NOBLOCK)
        return feed.unread.dropped > 200

    until(refused)
    # What the feed has made and not got rid of: replies are objects of this process.
    kept, _ = tracemalloc.get_traced_memory()
    assert feed.unread.size <= 10 * REPLY_BYTES
    assert kept < 14 * REPLY_BYTES


def test_a_follower_that_reads_gets_each_reply(open_things, dealer):
    feed = FeedServer("tcp://127.0.0.1:0", {Medium.DRAM: LargeFeed()}, max_unread_bytes=REPLY_BYTES)
    open_things.callback(feed.close)
    follower = dealer(feed.endpoint)
    for number in range(100):
        # It is asked sooner than the feed may know that the reply before was read.
        follower.send(request(number))
        assert decode_reply(follower.recv()).number == number
    assert feed.unread.dropped == 0
