"""Follows the events of one medium of one instance."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass

import zmq
import zmq.asyncio

from mempool.address import Medium
from mempool.errors import FrameError, MemPoolError
from mempool.feed.messages import MAX_REPLY_BYTES, FeedRequest, Unknown, encode
from mempool.guard import LoopGuard
from mempool.sockets import SocketLimits, set_bounds
from router.instances.instance import Instance
from router.instances.server_info import FeedAt
from router.kv_events.cooperative import CooperativeRunner
from router.kv_events.progress import FeedProgress
from router.kv_events.replies import (
    FeedReply,
    RawEventBatch,
    RawSnapshotReply,
    decode_event,
    decode_reply,
    decode_stored,
)
from router.prefix_tree import InstanceIndex, Mirrors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FeedTiming:
    """All in seconds. `wait_s`: a feed without news answers after that long. `late_s`: how much longer an
    answer may take before the request is repeated. `silence_s`: a feed that is not heard for so long is lost.

    After failures in a row the pause before the next attempt doubles, from `min_pause_s` to `max_pause_s`. An
    instance without such a feed is asked again after `max_pause_s`.
    """

    wait_s: float = 1.0
    late_s: float = 2.0
    silence_s: float = 10.0
    min_pause_s: float = 0.05
    max_pause_s: float = 30.0


class FeedLost(MemPoolError):
    """The feed was silent for too long."""


class FeedClient:
    """Asks for the events after those that it has, and keeps an index of the tree equal to the instance's.

    An answer that cannot be right costs the connection. After a wrong event, a snapshot replaces the index.
    `changed` is called whenever `progress.trouble` may have changed.
    """

    def __init__(
        self,
        instance: Instance,
        medium: Medium,
        at: FeedAt,
        mirrors: Mirrors,
        runner: CooperativeRunner,
        progress: FeedProgress,
        changed: Callable[[], None],
        timing: FeedTiming,
    ) -> None:
        self._instance = instance
        self._medium = medium
        self._at = at
        self._mirrors = mirrors
        self._runner = runner
        self._progress = progress
        self._changed = changed
        self._timing = timing
        self._index: InstanceIndex | None = None
        self._incarnation = at.incarnation
        self._number = 0
        self._guard = LoopGuard(f"following the {medium} of {instance}")
        self._failures = 0

    @property
    def _seq(self) -> int:
        """The last event that is here; -1 to ask for a snapshot."""
        known = self._index if self._index is not None and self._index.lives else None
        return -1 if known is None or known.seq is None else known.seq

    async def run(self, context: zmq.asyncio.Context) -> None:
        """Runs until it is cancelled. Its index counts no more then."""
        try:
            while True:
                try:
                    with closing(self._connected(context)) as socket:
                        await self._follow(socket)
                except (MemPoolError, zmq.ZMQError) as error:
                    self._failed(error)
                except Exception as error:
                    # Without another attempt the tree would be stale for good.
                    self._guard.report(error)
                    self._failed(error)
                await asyncio.sleep(self._pause())
        finally:
            self._close("not followed")

    def _connected(self, context: zmq.asyncio.Context) -> zmq.asyncio.Socket:
        socket = context.socket(zmq.DEALER)
        try:
            set_bounds(socket, self._at.endpoint, SocketLimits())
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
            # There is one request at a time: whatever else an instance sends is not to be kept here.
            socket.setsockopt(zmq.RCVHWM, 1)
            # A request that waits for a connection might reach another server.
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.SNDTIMEO, -1)
            socket.connect(self._at.endpoint)
        except Exception:
            # The endpoint is the instance's own word, and may be anything.
            socket.close()
            raise
        return socket

    async def _follow(self, socket: zmq.asyncio.Socket) -> None:
        silent = 0.0
        while silent < self._timing.silence_s:
            async with self._runner.snapshots if self._seq < 0 else nullcontext():
                answered = await self._ask(socket)
            silent = 0.0 if answered else silent + self._timing.wait_s + self._timing.late_s
            if answered is Unknown:
                await asyncio.sleep(self._timing.max_pause_s)
        hint = "" if self._progress.had_snapshot else ": does the router have the instances' cluster key?"
        raise FeedLost(f"{self._at.endpoint} was silent for {silent:.3g} s{hint}")

    async def _ask(self, socket: zmq.asyncio.Socket) -> type[FeedReply] | None:
        """Applies the answer, and returns its type; None if none came in time. A large answer is not kept."""
        try:
            async with asyncio.timeout(self._timing.wait_s + self._timing.late_s):
                answer = await self._reply(socket)
        except TimeoutError:
            return None
        self._number += 1
        self._progress.heard()
        await self._take(answer)
        return type(answer)

    async def _reply(self, socket: zmq.asyncio.Socket) -> FeedReply:
        """The answer to a request, which may repeat another one. Answers to earlier requests are dropped."""
        request = FeedRequest(self._number, self._medium, self._incarnation, self._seq, self._timing.wait_s)
        await socket.send(encode(request))
        while True:
            frame, *others = await socket.recv_multipart(copy=False)
            if others:
                raise FrameError(f"an answer of {len(others) + 1} frames")
            answer = decode_reply(frame.buffer)
            if answer.number == self._number:
                return answer

    async def _take(self, answer: FeedReply) -> None:
        match answer:
            case Unknown():
                self._close(f"unknown: {answer.reason}")
                self._all_well()
            case RawSnapshotReply():
                await self._take_snapshot(answer)
            case RawEventBatch():
                await self._take_events(answer)

    async def _take_snapshot(self, reply: RawSnapshotReply) -> None:
        if self._progress.had_snapshot and reply.incarnation != self._incarnation:
            # It may be another server by now.
            self._instance.request_recheck()
        self._incarnation, snapshot = reply.incarnation, reply.snapshot
        index = self._index = self._mirrors.open(self._instance, self._medium, snapshot.page_size)
        stored = map(decode_stored, snapshot.stored)
        self._progress.enter("taking a snapshot")
        await self._runner.work(self._mirrors.load(index, stored, snapshot.seq))
        self._progress.snapshot_taken()

    async def _take_events(self, batch: RawEventBatch) -> None:
        index = self._index
        if index is None or batch.incarnation != self._incarnation:
            raise FrameError(f"events of incarnation {batch.incarnation}, where a snapshot was asked for")
        if batch.events:
            await self._runner.work(self._applying(index, batch))
            self._progress.events_applied(len(batch.events))
        self._all_well()

    def _applying(self, index: InstanceIndex, batch: RawEventBatch) -> Iterator[None]:
        for raw in batch.events:
            yield from self._mirrors.apply(index, decode_event(raw))

    def _all_well(self) -> None:
        self._failures = 0
        self._progress.recovered()
        self._changed()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        lost = isinstance(error, FeedLost)
        if lost:
            self._instance.request_recheck()
        if lost or self._index is None or self._index.seq is None:
            self._close("lost")
        # The next snapshot heals a single failure.
        lasting = lost or self._failures > 1
        self._progress.failed(error, lasting=lasting)
        if lasting:
            self._changed()

    def _close(self, state: str) -> None:
        self._index = None
        self._mirrors.close(self._instance, self._medium)
        self._progress.enter(state)

    def _pause(self) -> float:
        return min(self._timing.min_pause_s * 2.0 ** min(self._failures - 1, 20), self._timing.max_pause_s)
