"""A feed that is silent, lies or cannot be is lost, says so once, and hurts no other."""

import dataclasses
import logging

from fake_feed import PAGE, TIMING, has, new_instance, state, straight, tokens
from waiting import eventually

from mempool.feed import messages
from mempool.feed.messages import EventBatch
from mempool.index.events import Cleared
from router.instances.server_info import FeedAt, ServerInfo


def silent(*_):
    return []


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


async def test_an_endpoint_that_cannot_be_is_lost_not_fatal(tree, make_feed, follow, caplog):
    feed = make_feed()
    feed.insert(tokens(range(8)))
    good, bad = new_instance(feed, 1), new_instance(feed, 2)
    bad.learn(ServerInfo(page_size=PAGE, feed=FeedAt("tcp://nowhere", 1)))
    follow(good, bad)
    await eventually(lambda: "the feed of colocated instance http://2:1 is lost" in caplog.text)
    await eventually(lambda: has(tree, good, range(100)) == 8)
