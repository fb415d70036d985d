"""Feeds that are followed into a tree; the other side is a real socket."""

import asyncio

import pytest
import zmq.asyncio
from fake_feed import TIMING, FakeFeed

from router.kv_events import Feeds
from router.prefix_tree import EventTree


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
