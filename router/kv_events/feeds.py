from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

import zmq
import zmq.asyncio

from mempool.address import Medium
from mempool.guard import LoopGuard
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess
from router.instances.instance import Instance
from router.instances.server_info import FeedAt
from router.kv_events.cooperative import CooperativeRunner
from router.kv_events.feed_client import FeedClient, FeedTiming
from router.kv_events.progress import FeedProgress
from router.prefix_tree import Mirrors

logger = logging.getLogger(__name__)

# How late the router may notice that an instance is up, down, or another one.
_LOOK_SECONDS = 0.1
_MAX_SOCKETS = 65535


class Feeds:
    """Follows every healthy instance that reports a feed, in both media. Instances come and go.

    `access`: as whom it asks them.
    """

    def __init__(
        self,
        instances: Collection[Instance],
        mirrors: Mirrors,
        timing: FeedTiming | None = None,
        *,
        access: ClusterAccess = LOOPBACK_ONLY,
    ) -> None:
        self._instances = instances
        self._mirrors = mirrors
        self._runner = CooperativeRunner()
        self._timing = timing or FeedTiming()
        self._access = access
        self._feeds: dict[Instance, _Feed] = {}
        self._guard = LoopGuard("following the instances")

    async def run(self) -> None:
        """Runs until it is cancelled. What was followed is out of the tree then."""
        context = zmq.asyncio.Context()
        context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._access.present(context)
        try:
            while True:
                with self._guard:
                    self._look(context)
                    await self._runner.work(self._mirrors.sweep())
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            running = [task for feed in self._feeds.values() if (task := feed.stop()) is not None]
            await asyncio.gather(*running, return_exceptions=True)
            context.destroy(linger=0)

    def describe(self) -> dict[str, Any]:
        """By instance and medium, for instances that have reported a feed."""
        return {feed.instance.url: feed.describe() for feed in self._feeds.values() if feed.at is not None}

    def _look(self, context: zmq.asyncio.Context) -> None:
        for instance in self._instances:
            if instance not in self._feeds:
                self._feeds[instance] = _Feed(instance, self._mirrors, self._runner, self._timing)
        for instance, feed in list(self._feeds.items()):
            if instance in self._instances:
                feed.look(context)
            elif (task := feed.stop()) is None or task.done():
                del self._feeds[instance]


class _Feed:
    """The feed of one instance. `at`: where it was when it was followed last."""

    def __init__(
        self, instance: Instance, mirrors: Mirrors, runner: CooperativeRunner, timing: FeedTiming
    ) -> None:
        self.instance = instance
        self.at: FeedAt | None = None
        self._mirrors = mirrors
        self._runner = runner
        self._timing = timing
        self._progress = {medium: FeedProgress() for medium in Medium}
        self._task: asyncio.Task[None] | None = None
        self._lost = False

    def look(self, context: zmq.asyncio.Context) -> None:
        """Starts, stops or moves the clients of the feed where that is needed."""
        server_info = self.instance.server_info if self.instance.healthy else None
        at = None if server_info is None else server_info.feed
        if self._task is not None and self._task.done():
            self._task = None
        if self._task is not None and at != self.at:
            # It has to close its indexes first: the next look goes on from there.
            self._task.cancel()
        if self._task is None and at is not None:
            self.at = at
            self._task = asyncio.create_task(self._follow(at, context))

    def stop(self) -> asyncio.Task[None] | None:
        if self._task is not None:
            self._task.cancel()
        return self._task

    def describe(self) -> dict[str, Any]:
        return {medium.value: progress.describe() for medium, progress in self._progress.items()}

    async def _follow(self, at: FeedAt, context: zmq.asyncio.Context) -> None:
        async with asyncio.TaskGroup() as group:
            for medium, progress in self._progress.items():
                client = FeedClient(
                    self.instance, medium, at, self._mirrors, self._runner, progress, self._log, self._timing
                )
                group.create_task(client.run(context))

    def _log(self) -> None:
        """Logs once that the feed is lost, and once that all of it is back."""
        troubles = [
            f"{progress.trouble} ({medium})"
            for medium, progress in self._progress.items()
            if progress.trouble
        ]
        if troubles and not self._lost:
            logger.warning("the feed of %s is lost: %s", self.instance, troubles[0])
        elif self._lost and not troubles:
            logger.info("the feed of %s is back", self.instance)
        self._lost = bool(troubles)
