"""Follows one medium of one instance."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio

from mempool.address import Medium
from mempool.errors import FrameError, MemPoolError
from mempool.feed.messages import MAX_REPLY_BYTES, FeedRequest, Unknown, encode
from mempool.index.mirror import EventGap
from mempool.sockets import SocketLimits, set_bounds
from router.instances.instance import Instance
from router.instances.server_info import FeedAt
from router.kv_events.answers import (
    Answer,
    EventBatch,
    SnapshotReply,
    decode_answer,
    decode_event,
    decode_stored,
)
from router.kv_events.cooperative import CooperativeRunner
from router.prefix_tree import InstanceIndex, Mirrors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A feed without news answers after `wait`; one that does not within `late` more is asked again,
    and one that is not heard for `silence` is lost. After failures in a row the pause before the next attempt
    doubles, from `pause` to `most_pause`; where there is no such feed, that is when it is asked for again.
    """

    wait: float = 1.0
    late: float = 2.0
    silence: float = 10.0
    pause: float = 0.05
    most_pause: float = 30.0


class FeedLost(MemPoolError):
    pass


class Followed:
    """What became of one feed so far. `trouble`: why nothing is known of this medium; "": all is well."""

    def __init__(self) -> None:
        self.state = "not asked yet"
        self.trouble = ""
        self.snapshots = self.events = self.gaps = self.errors = 0
        self.heard_at: float | None = None
        self.event_at: float | None = None

    def describe(self) -> dict[str, Any]:
        now = time.monotonic()
        return {
            "state": self.state,
            "trouble": self.trouble or None,
            "snapshots": self.snapshots,
            "events": self.events,
            "gaps": self.gaps,
            "errors": self.errors,
            "seconds_since_heard": _since(self.heard_at, now),
            "seconds_since_event": _since(self.event_at, now),
        }


class FeedClient:
    """Asks for what came after what it has, and keeps a part of the tree equal to it.

    What cannot be right costs the connection; if it was an event, a snapshot makes the part anew. `changed`
    is called whenever `followed.trouble` may have.
    """

    def __init__(
        self,
        instance: Instance,
        medium: Medium,
        at: FeedAt,
        mirrors: Mirrors,
        turns: CooperativeRunner,
        followed: Followed,
        changed: Callable[[], None],
        timing: Timing,
    ) -> None:
        self._instance = instance
        self._medium = medium
        self._at = at
        self._mirrors = mirrors
        self._turns = turns
        self._followed = followed
        self._changed = changed
        self._timing = timing
        self._part: InstanceIndex | None = None
        self._incarnation = at.incarnation
        self._number = 0
        self._failures = 0

    @property
    def _seq(self) -> int:
        """What to ask from: -1 for a snapshot."""
        known = self._part if self._part is not None and self._part.lives else None
        return -1 if known is None or known.seq is None else known.seq

    async def run(self, context: zmq.asyncio.Context) -> None:
        """Until it is cancelled; then its part of the tree counts no more."""
        try:
            while True:
                try:
                    with closing(self._connected(context)) as socket:
                        await self._follow(socket)
                except (MemPoolError, zmq.ZMQError) as error:
                    self._failed(error)
                except Exception as error:
                    # The tree would be stale for good without it.
                    logger.exception("following the %s of %s", self._medium, self._instance)
                    self._failed(error)
                await asyncio.sleep(self._pause())
        finally:
            self._close("not followed")

    def _connected(self, context: zmq.asyncio.Context) -> zmq.asyncio.Socket:
        socket = context.socket(zmq.DEALER)
        try:
            set_bounds(socket, self._at.endpoint, SocketLimits())
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
            # What waited for a connection would be asked of another server.
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.SNDTIMEO, -1)
            socket.connect(self._at.endpoint)
        except zmq.ZMQError:
            socket.close()
            raise
        return socket

    async def _follow(self, socket: zmq.asyncio.Socket) -> None:
        silent = 0.0
        while silent < self._timing.silence:
            async with self._turns.snapshots if self._seq < 0 else nullcontext():
                answered = await self._ask(socket)
            silent = 0.0 if answered else silent + self._timing.wait + self._timing.late
            if answered is Unknown:
                await asyncio.sleep(self._timing.most_pause)
        raise FeedLost(f"{self._at.endpoint} was silent for {silent:.3g} s")

    async def _ask(self, socket: zmq.asyncio.Socket) -> type[Answer] | None:
        """What came, and is taken in; None: nothing in time. It may have been large, so it is not kept."""
        try:
            async with asyncio.timeout(self._timing.wait + self._timing.late):
                answer = await self._answer(socket)
        except TimeoutError:
            return None
        self._number += 1
        self._followed.heard_at = time.monotonic()
        await self._take(answer)
        return type(answer)

    async def _answer(self, socket: zmq.asyncio.Socket) -> Answer:
        """To an ask that may be another one's repetition; answers to those before are too late."""
        ask = FeedRequest(self._number, self._medium, self._incarnation, self._seq, self._timing.wait)
        await socket.send(encode(ask))
        while True:
            frame, *others = await socket.recv_multipart(copy=False)
            if others:
                raise FrameError(f"an answer of {len(others) + 1} frames")
            answer = decode_answer(frame.buffer)
            if answer.number == self._number:
                return answer

    async def _take(self, answer: Answer) -> None:
        match answer:
            case Unknown():
                self._close(f"unknown: {answer.reason}")
                self._is_well()
            case SnapshotReply():
                await self._take_whole(answer)
            case EventBatch():
                await self._take_events(answer)

    async def _take_whole(self, whole: SnapshotReply) -> None:
        if self._followed.snapshots and whole.incarnation != self._incarnation:
            # It may be another server by now, with other traits.
            self._instance.request_recheck()
        self._incarnation, snapshot = whole.incarnation, whole.snapshot
        part = self._part = self._mirrors.open(self._instance, self._medium, snapshot.page_size)
        stored = map(decode_stored, snapshot.stored)
        self._followed.state = "taking a snapshot"
        await self._turns.work(self._mirrors.load(part, stored, snapshot.seq))
        self._followed.snapshots += 1
        self._followed.state = "followed"

    async def _take_events(self, told: EventBatch) -> None:
        part = self._part
        if part is None or told.incarnation != self._incarnation:
            raise FrameError(f"events of incarnation {told.incarnation}, where a snapshot was asked for")
        if told.events:
            await self._turns.work(self._applying(part, told))
            self._followed.events += len(told.events)
            self._followed.event_at = time.monotonic()
        self._is_well()

    def _applying(self, part: InstanceIndex, told: EventBatch) -> Iterator[None]:
        for raw in told.events:
            yield from self._mirrors.apply(part, decode_event(raw))

    def _is_well(self) -> None:
        self._failures, self._followed.trouble = 0, ""
        self._changed()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, EventGap):
            self._followed.gaps += 1
        else:
            self._followed.errors += 1
        self._failures += 1
        lost = isinstance(error, FeedLost)
        if lost:
            self._instance.request_recheck()
        if lost or self._part is None or self._part.seq is None:
            self._close("lost")
        # A single mishap is healed by the next snapshot.
        if lost or self._failures > 1:
            self._followed.trouble = str(error) or type(error).__name__
            self._changed()

    def _close(self, state: str) -> None:
        self._part = None
        self._mirrors.close(self._instance, self._medium)
        self._followed.state = state

    def _pause(self) -> float:
        return min(self._timing.pause * 2.0 ** min(self._failures - 1, 20), self._timing.most_pause)


def _since(then: float | None, now: float) -> float | None:
    return None if then is None else round(now - then, 1)
