"""Feeds are followed through whatever happens on the delivery; the other side is a real socket."""

import asyncio
import dataclasses
import logging
import random
import threading
import time
from collections import Counter

import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio
from waiting import eventually

from mempool.address import Addresses, Medium, Owner
from mempool.feed import messages
from mempool.feed.feed import IndexFeed
from mempool.feed.messages import EventBatch, SnapshotReply, Unknown
from mempool.feed.server import FeedServer
from mempool.index.events import Cleared
from mempool.index.index import Index
from router.instances.instance import Instance, Role
from router.instances.server_info import FeedAt, ServerInfo
from router.kv_events import Feeds, FeedTiming
from router.kv_events.cooperative import CooperativeRunner
from router.kv_events.progress import FeedProgress
from router.prefix_tree import EventTree

HBM, DRAM = Medium.HBM, Medium.DRAM
PAGE = 4
NAMESPACE = "[null,null]"
# A machine that is busy with something else for seconds must not look like a feed that is silent.
TIMING = FeedTiming(wait_s=0.02, late_s=0.03, silence_s=30, min_pause_s=0.001, max_pause_s=0.05)


class FakeFeed:
    """An instance's side. `delivery(request, frame)`: the frames that are sent for it, each after a time."""

    def __init__(self, context, url="tcp://127.0.0.1:*"):
        self.incarnation = 7
        self.indexes = {HBM: new_index()}
        self.requests = Counter()
        self.delivery = straight
        self._blocks = 0
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(url)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._tasks = {asyncio.create_task(self._serve())}

    @property
    def at(self):
        return FeedAt(self.endpoint, self.incarnation)

    def insert(self, prompt, medium=HBM):
        index = self.indexes[medium]
        more = len(prompt) // PAGE - index.match(NAMESPACE, prompt).blocks
        self._blocks += more
        owner = Owner("i", self.incarnation, medium)
        index.insert(NAMESPACE, prompt, [Addresses(owner, range(self._blocks - more, self._blocks))])

    def restart(self):
        self.incarnation += 1
        self.indexes = {HBM: new_index()}

    def close(self):
        for task in self._tasks:
            task.cancel()
        self._socket.close()

    async def _serve(self):
        while True:
            follower, frame = await self._socket.recv_multipart()
            request = messages.decode_request(frame)
            self.requests[request.medium] += 1
            self._spawn(self._answer(follower, request))

    async def _answer(self, follower, request):
        answer = self.answer(request)
        until = time.monotonic() + request.wait
        while isinstance(answer, EventBatch) and not answer.events and time.monotonic() < until:
            await asyncio.sleep(0.001)
            answer = self.answer(request)
        for seconds, sent in self.delivery(request, messages.encode(answer)):
            self._spawn(self._send(follower, seconds, sent))

    async def _send(self, follower, seconds, frame):
        await asyncio.sleep(seconds)
        await self._socket.send_multipart([follower, frame])

    def answer(self, request):
        index = self.indexes.get(request.medium)
        if index is None:
            return Unknown(request.number, "no such medium")
        events = index.events_since(request.seq) if request.incarnation == self.incarnation else None
        if events is None:
            return SnapshotReply(request.number, self.incarnation, index.snapshot())
        return EventBatch(request.number, self.incarnation, events)

    def _spawn(self, work):
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def new_index(log_events=1000):
    return Index(PAGE, on_freed=lambda _: None, log_events=log_events)


def straight(_, frame):
    return [(0, frame)]


def silent(*_):
    return []


@pytest.fixture
async def context():
    made = zmq.asyncio.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
async def make_feed(context):
    feeds = []

    def make(**how):
        feeds.append(FakeFeed(context, **how))
        return feeds[-1]

    yield make
    for feed in feeds:
        feed.close()


@pytest.fixture
def tree():
    return EventTree(600, 5, 1 << 20)


@pytest.fixture
async def follow(tree):
    """`follow(instances, timing)`: feeds that are being followed."""
    tasks = []

    def follow(*instances, timing=TIMING):
        feeds = Feeds(instances, tree.mirrors, timing)
        tasks.append(asyncio.create_task(feeds.run()))
        return feeds

    yield follow
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def new_instance(feed, number=1):
    made = Instance(f"http://{number}:1", Role.COLOCATED)
    made.up()
    made.learn(ServerInfo(page_size=PAGE, feed=feed.at))
    return made


def tokens(*pieces):
    return np.array([token for piece in pieces for token in piece], dtype=np.int32)


def has(tree, instance, prompt, medium=HBM):
    cached = tree.match(tokens(prompt, [0]), "").get(instance)
    return 0 if cached is None else cached.hbm if medium is HBM else cached.tokens


def state(feeds, instance, medium=HBM):
    """Of one that is followed already or soon."""
    return feeds.describe().get(instance.url, {}).get(medium.value) or FeedProgress().describe()


async def test_both_media_are_followed(tree, make_feed, follow):
    feed = make_feed()
    feed.indexes[DRAM] = new_index()
    feed.insert(tokens(range(40)))
    instance = new_instance(feed)
    feeds = follow(instance)
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    feed.insert(tokens(range(80)), DRAM)
    feed.insert(tokens(range(60)))
    await eventually(lambda: tree.match(tokens(range(100)), "") == {instance: (80, 60)})
    feed.indexes[HBM].clear()
    await eventually(lambda: tree.match(tokens(range(100)), "") == {instance: (80, 0)})
    await eventually(lambda: state(feeds, instance)["events"] == 2)
    hbm = state(feeds, instance)
    assert (hbm["state"], hbm["trouble"], hbm["snapshots"]) == ("followed", None, 1)
    assert hbm["errors"] == hbm["gaps"] == 0


def unreliable(rng):
    """Loses, doubles, delays (past the next request) and spoils; so answers come out of order, too."""

    def delivery(request, frame):
        match rng.randrange(12):
            case 0 | 1:
                return []
            case 2 | 3:
                return [(0, frame), (rng.random() * 0.05, frame)]
            case 4 | 5:
                return [(rng.random() * 0.08, frame)]
            case 6:
                return [(0, rng.randbytes(20))]
            case 7:
                return [(0, frame[: rng.randrange(len(frame))])]
            case 8:
                spoilt = bytearray(frame)
                spoilt[rng.randrange(20)] ^= 1 << rng.randrange(8)
                return [(0, bytes(spoilt))]
            case 9:
                return [
                    (
                        0,
                        messages.encode(
                            EventBatch(request.number, 7, [Cleared(seq=request.seq + 5, namespace=None)])
                        ),
                    )
                ]
            case 10:
                return [(0, messages.encode(Unknown(request.number + 1, "of another request"))), (0, frame)]
        return [(0, frame)]

    return delivery


@pytest.mark.parametrize("seed", range(3))
async def test_the_tree_comes_right_whatever_happens_to_answers(tree, make_feed, follow, seed):
    rng = random.Random(seed)
    feeds = [make_feed() for _ in range(3)]
    instances = [new_instance(feed, number) for number, feed in enumerate(feeds)]
    follow(*instances)
    for feed in feeds[:2]:
        feed.delivery = unreliable(rng)
    for _ in range(150):
        feed = rng.choice(feeds)
        match rng.randrange(10):
            case 0:
                feed.indexes[HBM].evict(Owner("i", feed.incarnation, HBM), 5)
            case 1 if rng.random() < 0.3:
                feed.restart()
            case _:
                feed.insert(tokens([1] * 10, [rng.randrange(2) for _ in range(rng.randrange(4, 40))]))
        await asyncio.sleep(0.003)
    for feed in feeds:
        feed.delivery = straight
        feed.insert(tokens(range(8)))
    asked = [tokens([1] * 10, [rng.randrange(2) for _ in range(40)]) for _ in range(100)] + [tokens(range(9))]

    def equal():
        return all(
            tree.match(prompt, "").get(instance, (0, 0))[1]
            == feed.indexes[HBM].match(NAMESPACE, prompt[:-1]).tokens
            for prompt in asked
            for instance, feed in zip(instances, feeds, strict=True)
        )

    await eventually(equal)


async def test_doubled_and_late_answers_cost_nothing(tree, make_feed, follow):
    feed = make_feed()
    feed.delivery = lambda _, frame: [(0, frame), (0.002, frame), (0.01, frame)]
    instance = new_instance(feed)
    feeds = follow(instance)
    for n in range(40):
        feed.insert(tokens([n] * 8))
        await eventually(lambda n=n: has(tree, instance, [n] * 8) == 8)
    await eventually(lambda: feed.requests[HBM] > 40)
    assert [state(feeds, instance)[name] for name in ("snapshots", "gaps", "errors")] == [1, 0, 0]


async def test_events_of_another_incarnation_are_not_applied(tree, make_feed, follow):
    feed, sent = make_feed(), []
    feed.insert(tokens(range(40)))

    def mistaken(request, frame):
        if request.seq >= 0 and not sent:
            sent.append(request)
            frame = messages.encode(
                EventBatch(request.number, 99, [Cleared(seq=request.seq + 1, namespace=None)])
            )
        return [(0, frame)]

    feed.delivery = mistaken
    instance = new_instance(feed)
    feeds = follow(instance)
    await eventually(lambda: sent and feed.requests[HBM] > 4)
    assert has(tree, instance, range(100)) == 40
    assert [state(feeds, instance)[name] for name in ("snapshots", "gaps", "errors")] == [1, 0, 1]


async def test_a_new_incarnation_has_the_instance_asked_what_it_is(tree, make_feed, follow):
    feed = make_feed()
    feed.insert(tokens(range(40)))
    instance = new_instance(feed)
    follow(instance)
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    assert not instance.recheck_requested
    feed.restart()
    feed.insert(tokens(range(8)))
    await eventually(lambda: has(tree, instance, range(100)) == 8)
    assert instance.recheck_requested
    assert instance.probe_requested.is_set()


async def test_a_client_that_fell_behind_gets_a_snapshot(tree, make_feed, follow):
    feed = make_feed()
    feed.indexes[HBM] = new_index(log_events=4)
    instance = new_instance(feed)
    feeds = follow(instance)
    await eventually(lambda: tree.mirrors.follows(instance))
    for n in range(10):
        feed.insert(tokens([n] * 8))
    await eventually(lambda: has(tree, instance, [9] * 8) == 8)
    assert has(tree, instance, [0] * 8) == 8
    await eventually(lambda: state(feeds, instance)["snapshots"] == 2)


async def test_a_gap_is_healed_by_a_snapshot_quietly(tree, make_feed, follow, caplog):
    feed, skipped = make_feed(), []

    def skip_one(_, frame):
        answer = messages.decode_reply(frame)
        if isinstance(answer, EventBatch) and len(answer.events) > 1 and not skipped:
            skipped.append(answer.events[0])
            frame = messages.encode(msgspec.structs.replace(answer, events=answer.events[1:]))
        return [(0, frame)]

    feed.delivery = skip_one
    instance = new_instance(feed)
    feeds = follow(instance)
    await eventually(lambda: tree.mirrors.follows(instance))
    for n in range(3):
        feed.insert(tokens([n] * 8))
    await eventually(lambda: skipped and has(tree, instance, [0] * 8) == 8)
    await eventually(lambda: state(feeds, instance)["snapshots"] == 2)
    assert (state(feeds, instance)["gaps"], state(feeds, instance)["errors"]) == (1, 0)
    assert "feed" not in caplog.text


async def test_a_feed_that_lies_again_and_again_is_lost_and_hurts_no_other(tree, make_feed, follow, caplog):
    caplog.set_level(logging.INFO)
    liar, honest = make_feed(), make_feed()
    instances = new_instance(liar, 1), new_instance(honest, 2)
    for feed in (liar, honest):
        feed.insert(tokens(range(40)))

    def lie(request, frame):
        if request.seq < 0:
            return [(0, frame)]
        untrue = EventBatch(request.number, liar.incarnation, [Cleared(seq=request.seq + 1, namespace="x")])
        junk = messages.encode(untrue).replace(b"\xa1x", b"\xa1\xff")
        return [(0, junk)]

    liar.delivery = lie
    feeds = follow(*instances)
    await eventually(lambda: state(feeds, instances[0])["errors"] > 4)
    assert has(tree, instances[1], range(100)) == 40
    liar.delivery = straight
    await eventually(lambda: "is back" in caplog.text)
    assert has(tree, instances[0], range(100)) == 40
    logged = [record.getMessage() for record in caplog.records if "the feed of" in record.getMessage()]
    assert len(logged) == 2
    assert logged[0].startswith("the feed of colocated instance http://1:1 is lost: not a message of a feed")
    assert logged[1] == "the feed of colocated instance http://1:1 is back"


async def test_a_feed_that_falls_silent_is_lost_until_it_speaks_again(tree, make_feed, follow, caplog):
    caplog.set_level(logging.INFO)
    feed = make_feed()
    feed.insert(tokens(range(40)))
    instance = new_instance(feed)
    feeds = follow(instance, timing=dataclasses.replace(TIMING, silence_s=1))
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    feed.delivery = silent
    await eventually(lambda: not tree.mirrors.follows(instance))
    assert tree.match(tokens(range(100)), "") == {}
    assert instance.recheck_requested
    assert state(feeds, instance)["state"] == "lost"
    await eventually(lambda: "is lost" in caplog.text)
    feed.delivery = straight
    await eventually(lambda: "is back" in caplog.text)
    assert has(tree, instance, range(100)) == 40
    assert caplog.text.count("the feed of") == 2


async def test_an_instance_that_is_down_is_not_followed_until_it_is_known_again(
    tree, make_feed, follow, caplog
):
    old, new = make_feed(), make_feed()
    old.insert(tokens(range(40)))
    new.insert(tokens(range(20)))
    instance = new_instance(old)
    follow(instance)
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    instance.down("gone")
    assert tree.match(tokens(range(100)), "") == {}
    await eventually(lambda: tree.mirrors.sizes()["tokens"] == 0)
    asked = old.requests[HBM]
    instance.up()
    await asyncio.sleep(0.3)
    instance.learn(ServerInfo(page_size=PAGE, feed=new.at))
    await eventually(lambda: has(tree, instance, range(100)) == 20)
    assert old.requests[HBM] <= asked + 1
    assert "feed" not in caplog.text


async def test_a_feed_that_moves_is_followed_there(tree, make_feed, follow):
    old, new = make_feed(), make_feed()
    old.insert(tokens(range(40)))
    new.insert(tokens(range(20)))
    instance = new_instance(old)
    follow(instance)
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    instance.learn(ServerInfo(page_size=PAGE, feed=new.at))
    await eventually(lambda: has(tree, instance, range(100)) == 20)


async def test_after_a_flush_the_index_is_built_anew(tree, make_feed, follow):
    feed = make_feed()
    feed.insert(tokens(range(40)))
    instance = new_instance(feed)
    follow(instance)
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    instance.bump_cache_epoch()
    assert tree.match(tokens(range(100)), "") == {}
    await eventually(lambda: has(tree, instance, range(100)) == 40)


async def test_a_medium_that_is_not_there_is_no_trouble_and_may_come(tree, make_feed, follow, caplog):
    feed = make_feed()
    feed.insert(tokens(range(8)))
    instance = new_instance(feed)
    feeds = follow(instance)
    await eventually(lambda: state(feeds, instance, DRAM)["state"] == "unknown: no such medium")
    feed.indexes[DRAM] = new_index()
    feed.insert(tokens(range(20)), DRAM)
    await eventually(lambda: tree.match(tokens(range(100)), "") == {instance: (20, 8)})
    assert "feed" not in caplog.text


async def test_an_endpoint_that_cannot_be_is_lost_not_fatal(tree, make_feed, follow, caplog):
    feed = make_feed()
    feed.insert(tokens(range(8)))
    good, bad = new_instance(feed, 1), new_instance(feed, 2)
    bad.learn(ServerInfo(page_size=PAGE, feed=FeedAt("tcp://nowhere", 1)))
    follow(good, bad)
    await eventually(lambda: "the feed of colocated instance http://2:1 is lost" in caplog.text)
    await eventually(lambda: has(tree, good, range(100)) == 8)


async def test_the_end_of_following_leaves_nothing_in_the_tree(tree, make_feed):
    feed = make_feed()
    feed.insert(tokens(range(40)))
    instance = new_instance(feed)
    task = asyncio.create_task(Feeds([instance], tree.mirrors, TIMING).run())
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert tree.match(tokens(range(100)), "") == {}


async def test_feeds_follow_instances_as_they_come_and_go(tree, make_feed):
    feed = make_feed()
    feed.insert(tokens(range(40)))
    instance, another = new_instance(feed, 1), new_instance(feed, 2)
    here = [instance]
    feeds = Feeds(here, tree.mirrors, TIMING)
    task = asyncio.create_task(feeds.run())
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    here[:] = [another]
    await eventually(lambda: has(tree, another, range(100)) == 40 and not has(tree, instance, range(100)))
    await eventually(lambda: list(feeds.describe()) == [another.url])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_few_snapshots_are_under_way_at_once(tree, make_feed, follow):
    under_way, counts = set(), []

    def slow(request, frame):
        if request.seq >= 0:
            return [(0, frame)]
        under_way.add(id(request))
        counts.append(len(under_way))
        asyncio.get_running_loop().call_later(0.01, under_way.discard, id(request))
        return [(0.01, frame)]

    instances = []
    for number in range(24):
        feed = make_feed()
        feed.delivery = slow
        feed.insert(tokens(range(8)))
        instances.append(new_instance(feed, number))
    follow(*instances, timing=dataclasses.replace(TIMING, late_s=5))
    await eventually(lambda: len(tree.match(tokens(range(9)), "")) == 24)
    assert 1 < max(counts) <= 4


async def test_long_work_lets_others_go_first():
    turns, rounds, began = CooperativeRunner(), [], []

    def steps(name):
        began.append(name)
        for _ in range(20):
            time.sleep(0.0003)
            yield

    async def others():
        while True:
            rounds.append(len(rounds))
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    works = [asyncio.create_task(turns.work(steps(name))) for name in "ab"]
    await works[0]
    assert began == ["a", "b"]
    assert len(rounds) >= 15
    await works[1]
    beside.cancel()


async def test_work_that_raises_does_not_stop_other_work():
    turns = CooperativeRunner()

    def fails():
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await turns.work(fails())
    await asyncio.wait_for(turns.work(iter([None])), 1)


def with_feed(feed):
    return {
        "memserve": {"feed": {"endpoint": feed.endpoint, "incarnation": feed.incarnation}},
        "page_size": PAGE,
    }


async def decide(cluster, ids):
    body = {"input_ids": ids, "sampling_params": {"max_new_tokens": 1}}
    async with cluster.session.post(cluster.url + "/generate", json=body) as response:
        assert response.status == 200
    async with cluster.session.get(cluster.url + "/decisions?last=1") as response:
        (decision,) = (await response.json())["decisions"]
    return {instance["url"]: instance["cached_tokens"] for instance in decision["candidates"]}


async def workers(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        return await response.json()


async def test_a_router_routes_by_the_events_of_its_instances(start, make_feed):
    feed = make_feed()
    feed.insert(tokens(range(40)))
    cluster = await start(colocated=1, info=with_feed(feed), policy="prompt_tree")
    (mock,) = cluster.colocated
    while not (feeds := (await workers(cluster))["feeds"]) or feeds[mock.url]["hbm"]["state"] != "followed":
        await asyncio.sleep(0.01)
    assert await decide(cluster, list(range(100))) == {mock.url: 40}


@pytest.mark.parametrize(
    "settings", [{"policy": "round_robin"}, {"policy": "prompt_tree", "tree_update": "response"}]
)
async def test_no_feed_is_followed_for_a_policy_without_tokens(start, make_feed, settings):
    feed = make_feed()
    cluster = await start(colocated=1, info=with_feed(feed), **settings)
    await asyncio.sleep(0.3)
    assert (await workers(cluster))["feeds"] == {}
    assert not feed.requests


async def test_an_instance_replaced_unnoticed_is_asked_where_its_feed_is(start, make_feed):
    old, new = make_feed(), make_feed()
    new.insert(tokens(range(20)))
    cluster = await start(colocated=1, info=with_feed(old), policy="prompt_tree")
    (mock,) = cluster.colocated
    while not old.requests[HBM] > 1:
        await asyncio.sleep(0.01)
    mock.info |= with_feed(new)
    old.restart()
    while not new.requests[HBM] > 1:
        await asyncio.sleep(0.01)
    assert await decide(cluster, list(range(100))) == {mock.url: 20}


async def test_it_follows_the_pools_own_server(tree, follow):
    lock, indexes = threading.Lock(), {medium: new_index() for medium in Medium}
    feeds = {medium: IndexFeed(lock, lambda index=index: (3, index)) for medium, index in indexes.items()}
    server = FeedServer("tcp://127.0.0.1:*", feeds)
    try:
        instance = Instance("http://1:1", Role.COLOCATED)
        instance.up()
        instance.learn(ServerInfo(page_size=PAGE, feed=FeedAt(server.endpoint, 3)))
        follow(instance, timing=FeedTiming())
        await eventually(lambda: tree.mirrors.follows(instance))
        for end, medium in ((40, HBM), (60, DRAM)):
            with lock:
                owner = Owner("i", 3, medium)
                indexes[medium].insert(NAMESPACE, tokens(range(end)), [Addresses(owner, range(end // PAGE))])
            feeds[medium].news()
        await eventually(lambda: tree.match(tokens(range(100)), "") == {instance: (60, 40)})
    finally:
        server.close()
