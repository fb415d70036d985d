from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

import zmq
import zmq.asyncio

from mempool.address import Medium
from router.instances.instance import Instance
from router.instances.server_info import FeedAt
from router.kv_events.cooperative import CooperativeRunner
from router.kv_events.feed_client import FeedClient, Followed, Timing
from router.prefix_tree import Mirrors

logger = logging.getLogger(__name__)

# How late it may be noticed that an instance is up, down, or another one.
_LOOK_SECONDS = 0.1
_MAX_SOCKETS = 65535


class Feeds:
    """Follows every instance that is healthy and tells where its feed is, in both media; they come and go."""

    def __init__(
        self, instances: Collection[Instance], mirrors: Mirrors, timing: Timing | None = None
    ) -> None:
        self._instances = instances
        self._mirrors = mirrors
        self._turns = CooperativeRunner()
        self._timing = timing or Timing()
        self._feeds: dict[Instance, _Feed] = {}

    async def run(self) -> None:
        """Until it is cancelled; all that was followed is out of the tree then."""
        context = zmq.asyncio.Context()
        context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        try:
            while True:
                self._look(context)
                await self._turns.work(self._mirrors.sweep())
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            running = [task for feed in self._feeds.values() if (task := feed.stop()) is not None]
            await asyncio.gather(*running, return_exceptions=True)
            context.destroy(linger=0)

    def describe(self) -> dict[str, Any]:
        """By instance, those that have told where their feed is; and by medium."""
        return {feed.instance.url: feed.describe() for feed in self._feeds.values() if feed.at is not None}

    def _look(self, context: zmq.asyncio.Context) -> None:
        for instance in self._instances:
            if instance not in self._feeds:
                self._feeds[instance] = _Feed(instance, self._mirrors, self._turns, self._timing)
        for instance, feed in list(self._feeds.items()):
            if instance in self._instances:
                feed.look(context)
            elif (task := feed.stop()) is None or task.done():
                del self._feeds[instance]


class _Feed:
    """One instance's. `at`: where it was when it was followed last."""

    def __init__(
        self, instance: Instance, mirrors: Mirrors, turns: CooperativeRunner, timing: Timing
    ) -> None:
        self.instance = instance
        self.at: FeedAt | None = None
        self._mirrors = mirrors
        self._turns = turns
        self._timing = timing
        self._followed = {medium: Followed() for medium in Medium}
        self._task: asyncio.Task[None] | None = None
        self._lost = False

    def look(self, context: zmq.asyncio.Context) -> None:
        """Starts, stops or changes what is followed, if need be."""
        server_info = self.instance.server_info if self.instance.healthy else None
        at = None if server_info is None else server_info.feed
        if self._task is not None and self._task.done():
            self._task = None
        if self._task is not None and at != self.at:
            # It closes its parts of the tree yet: the next look goes on from there.
            self._task.cancel()
        if self._task is None and at is not None:
            self.at = at
            self._task = asyncio.create_task(self._follow(at, context))

    def stop(self) -> asyncio.Task[None] | None:
        if self._task is not None:
            self._task.cancel()
        return self._task

    def describe(self) -> dict[str, Any]:
        return {medium.value: followed.describe() for medium, followed in self._followed.items()}

    async def _follow(self, at: FeedAt, context: zmq.asyncio.Context) -> None:
        async with asyncio.TaskGroup() as group:
            for medium, followed in self._followed.items():
                follower = FeedClient(
                    self.instance, medium, at, self._mirrors, self._turns, followed, self._log, self._timing
                )
                group.create_task(follower.run(context))

    def _log(self) -> None:
        """Once when it is lost, and once when all of it is back."""
        troubles = [f"{one.trouble} ({medium})" for medium, one in self._followed.items() if one.trouble]
        if troubles and not self._lost:
            logger.warning("the feed of %s is lost: %s", self.instance, troubles[0])
        elif self._lost and not troubles:
            logger.info("the feed of %s is back", self.instance)
        self._lost = bool(troubles)
