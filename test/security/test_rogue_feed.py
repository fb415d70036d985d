"""An instance whose feed says what it likes makes a router keep no more than a bound."""

import asyncio
import tracemalloc

import msgspec
import pytest
import zmq
import zmq.asyncio
from fake_feed import HBM, NAMESPACE, TIMING, new_instance, state

from mempool.errors import FrameError
from mempool.feed.messages import MAX_EVENTS, MAX_RUNS, decode_request
from mempool.index.events import MAX_OWNERS
from router.instances.server_info import FeedAt
from router.kv_events import Feeds
from router.kv_events.replies import decode_event, decode_reply
from router.prefix_tree import EventTree

OWNER = ["i", 1, "hbm"]
encode = msgspec.msgpack.encode


def stored(run, **fields):
    made = {"type": "Stored", "seq": 0, "namespace": NAMESPACE, "run": run, "first": 0}
    made |= {"parent_run": -1, "parent_block": -1, "tokens": run.to_bytes(4, "little")}
    return made | {"copies": [[OWNER, bytes(4)]]} | fields


def long_chain(runs):
    """Each run is one token, below the one before."""
    return [stored(run, parent_run=run - 1, parent_block=0 if run else -1) for run in range(runs)]


def snapshot(number, runs):
    said = {"type": "Snapshot", "seq": 1, "page_size": 1, "stored": runs}
    return encode({"type": "snapshot_reply", "number": number, "incarnation": 7, "snapshot": said})


class RogueFeed:
    """Answers each request with `answer(request)`."""

    def __init__(self, context, answer):
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.at = FeedAt(f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}", 7)
        self.task = asyncio.create_task(self.serve(answer))

    async def serve(self, answer):
        while True:
            follower, frame = await self.socket.recv_multipart()
            await self.socket.send_multipart([follower, answer(decode_request(frame))])


@pytest.fixture
async def follow(open_things):
    context = zmq.asyncio.Context()
    open_things.callback(context.destroy, linger=0)
    running = []

    def start(tree, answer):
        feed = RogueFeed(context, answer)
        instance = new_instance(feed)
        feeds = Feeds([instance], tree.mirrors, TIMING)
        running.extend([feed.task, asyncio.create_task(feeds.run())])
        return feeds, instance

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


@pytest.mark.parametrize("runs", [long_chain, lambda count: [stored(run) for run in range(count)]])
async def test_many_short_runs_cost_what_the_tree_may_cost(follow, runs):
    tree = EventTree(600, 5, 1 << 20)
    entries = runs(50_000)
    feeds, instance = follow(tree, lambda request: snapshot(request.number, entries))
    most = 0
    while not (refused := state(feeds, instance, HBM)["trouble"]) and not tree.mirrors.follows(instance):
        most = max(most, tree.sizes()["nodes"])
        await asyncio.sleep(0)
    # The tree may have the memory of a million tokens, 4 MiB.
    assert "--max-tree-size" in refused
    assert 1_000 < most < 7_000


def test_a_snapshot_of_countless_entries_is_refused_unread():
    frame = snapshot(1, [])
    endless = frame[:-1] + b"\xdd" + (MAX_RUNS + 1).to_bytes(4, "big") + b"\xc0" * (MAX_RUNS + 1)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match="length"):
            decode_reply(endless)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "fields",
    [
        {"copies": [[["i", number, "hbm"], bytes(4)] for number in range(MAX_OWNERS + 1)]},
        {"namespace": "n" * 257},
    ],
)
def test_an_event_that_names_too_much_is_refused(fields):
    decode_event(msgspec.Raw(encode(stored(1))))
    with pytest.raises(FrameError, match="length"):
        decode_event(msgspec.Raw(encode(stored(1, **fields))))


def test_a_batch_of_too_many_events_is_refused():
    batch = {"type": "event_batch", "number": 1, "incarnation": 7, "events": [None] * (MAX_EVENTS + 1)}
    with pytest.raises(FrameError, match="length"):
        decode_reply(encode(batch))
