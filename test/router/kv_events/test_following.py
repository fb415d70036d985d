"""What is cached is followed, wherever the feed is and whatever comes and goes."""

import asyncio
import dataclasses
import threading

from fake_feed import DRAM, HBM, NAMESPACE, PAGE, TIMING, has, new_index, new_instance, state, tokens
from waiting import eventually

from mempool.address import Addresses, Medium, Owner
from mempool.feed.feed import IndexFeed
from mempool.feed.server import FeedServer
from router.instances.instance import Instance, Role
from router.instances.server_info import FeedAt, ServerInfo
from router.kv_events import Feeds, FeedTiming


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


async def test_after_a_flush_the_index_is_built_anew(tree, make_feed, follow):
    feed = make_feed()
    feed.insert(tokens(range(40)))
    instance = new_instance(feed)
    follow(instance)
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    instance.bump_cache_epoch()
    assert tree.match(tokens(range(100)), "") == {}
    await eventually(lambda: has(tree, instance, range(100)) == 40)


async def test_a_feed_that_moves_is_followed_there(tree, make_feed, follow):
    old, new = make_feed(), make_feed()
    old.insert(tokens(range(40)))
    new.insert(tokens(range(20)))
    instance = new_instance(old)
    follow(instance)
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    instance.learn(ServerInfo(page_size=PAGE, feed=new.at))
    await eventually(lambda: has(tree, instance, range(100)) == 20)


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


async def test_the_end_of_following_leaves_nothing_in_the_tree(tree, make_feed):
    feed = make_feed()
    feed.insert(tokens(range(40)))
    instance = new_instance(feed)
    task = asyncio.create_task(Feeds([instance], tree.mirrors, TIMING).run())
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert tree.match(tokens(range(100)), "") == {}


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
