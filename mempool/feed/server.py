"""Answers followers: one thread, whatever their number and however long they wait for news."""

import logging
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import zmq

from mempool.address import Medium
from mempool.errors import FrameError, MemPoolError
from mempool.feed.feed import Feed
from mempool.feed.messages import (
    MAX_ANSWER_BYTES,
    MAX_EVENTS,
    MAX_REQUEST_BYTES,
    Answer,
    EventBatch,
    FeedRequest,
    SnapshotReply,
    Unknown,
    decode_request,
    encode,
)
from mempool.index.events import AnyEvent, Stored
from mempool.sockets import Limits, Wakeup, bound, milliseconds, new_context
from mempool.wire import short

logger = logging.getLogger(__name__)

# Of asks without an answer yet, one for each medium of a follower. Far more than there are routers.
MAX_WAITING = 4096
# A follower that reads has one answer for each medium under way.
_ANSWERS_UNREAD = 4
# Of tokens: so that a follower need not take in a day's prompts at once.
_MAX_TOLD_BYTES = 16 << 20
# So that a flood of asks does not keep it from those that wait.
_ASKS_A_TURN = 256


class _Waiting(NamedTuple):
    ask: FeedRequest
    until: float


class FeedServer:
    """Listens at `url` (tcp, ipc), for followers with DEALER sockets: an ask is one frame, an answer another.
    `endpoint` is what they connect to. Of each follower the latest ask for a medium is answered.

    What is not of the protocol is dropped, and counted in `bad_frames`. An answer to a follower that does not
    read is dropped: it will ask again. Raises MemPoolError when `url` cannot be listened at.
    """

    def __init__(self, url: str, feeds: Mapping[Medium, Feed], *, max_waiting: int = MAX_WAITING) -> None:
        self.bad_frames = 0
        self._feeds = dict(feeds)
        self._max_waiting = max_waiting
        self._waiting: dict[tuple[bytes, Medium], _Waiting] = {}
        self._fresh = dict.fromkeys(feeds, False)
        self._context = new_context()
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            bound(self._socket, url, Limits())
            self._socket.setsockopt(zmq.SNDHWM, _ANSWERS_UNREAD)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
            self._socket.bind(url)
        except zmq.ZMQError as error:
            self._end_socket()
            raise MemPoolError(f"cannot listen at {url!r}: {error}") from error
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wakeup = Wakeup()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mempool-feed", daemon=True)
        self._thread.start()
        for medium, feed in self._feeds.items():
            feed.listen(partial(self._has_news, medium))

    def close(self) -> None:
        """Idempotent. Followers hear nothing more."""
        if self._stopping:
            return
        self._stopping = True
        for feed in self._feeds.values():
            feed.listen(None)
        self._wakeup.set()
        self._thread.join()
        self._wakeup.close()
        self._end_socket()

    def _end_socket(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def _has_news(self, medium: Medium) -> None:
        """From any thread. One wake-up does for all that happens before the thread looks."""
        if not self._fresh[medium]:
            self._fresh[medium] = True
            self._wakeup.set()

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._socket, self._wakeup):
            poller.register(source, zmq.POLLIN)
        timeout: int | None = None
        while not self._stopping:
            poller.poll(timeout)
            self._wakeup.clear()
            try:
                self._take_asks()
                self._answer_waiting()
            except Exception:
                # This thread serves everyone.
                logger.exception("a turn of the feed")
            timeout = milliseconds(self._until_next())

    def _until_next(self) -> float | None:
        if not self._waiting:
            return None
        return min(each.until for each in self._waiting.values()) - time.monotonic()

    def _take_asks(self) -> None:
        for _ in range(_ASKS_A_TURN):
            try:
                follower, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if len(frames) != 1:
                    raise FrameError(f"{len(frames)} frames where one was expected")
                ask = decode_request(frames[0])
            except FrameError as error:
                self.bad_frames += 1
                logger.debug("dropped an ask: %s", error)
                continue
            self._take(follower, ask)

    def _take(self, follower: bytes, ask: FeedRequest) -> None:
        key = (follower, ask.medium)
        self._waiting.pop(key, None)
        if self._answer(follower, ask, last=not ask.wait):
            return
        self._waiting[key] = _Waiting(ask, time.monotonic() + ask.wait)
        if len(self._waiting) > self._max_waiting:
            (oldest, _), waiting = next(iter(self._waiting.items()))
            del self._waiting[oldest, waiting.ask.medium]
            self._answer(oldest, waiting.ask, last=True)

    def _answer_waiting(self) -> None:
        fresh = {medium for medium, is_fresh in self._fresh.items() if is_fresh}
        self._fresh.update(dict.fromkeys(fresh, False))
        now = time.monotonic()
        for key, (ask, until) in list(self._waiting.items()):
            if until <= now:
                del self._waiting[key]
                self._answer(key[0], ask, last=True)
            elif ask.medium in fresh and self._answer(key[0], ask, last=False):
                del self._waiting[key]

    def _answer(self, follower: bytes, ask: FeedRequest, *, last: bool) -> bool:
        """Whether it was answered: where there is no news, only if this is the `last` time."""
        frame = self._frame(ask, last)
        if frame is None:
            return False
        try:
            self._socket.send_multipart([follower, frame], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            logger.debug("an answer that could not be sent: %s", error)
        return True

    def _frame(self, ask: FeedRequest, last: bool) -> bytes | None:
        feed = self._feeds.get(ask.medium)
        if feed is None:
            return encode(Unknown(ask.number, f"no feed of {ask.medium} here"))
        events = feed.after(ask.incarnation, ask.seq)
        if events is None:
            return self._whole(ask, feed)
        if not events and not last:
            return None
        return _encoded(EventBatch(ask.number, ask.incarnation, _portion(events)))

    def _whole(self, ask: FeedRequest, feed: Feed) -> bytes:
        incarnation, snapshot = feed.whole()
        return _encoded(SnapshotReply(ask.number, incarnation, snapshot))


def _encoded(answer: Answer) -> bytes:
    frame = encode(answer)
    if len(frame) <= MAX_ANSWER_BYTES:
        return frame
    reason = f"an answer of {len(frame)} bytes, at most {MAX_ANSWER_BYTES} can be sent"
    logger.warning("the feed has %s", reason)
    return encode(Unknown(answer.number, short(reason)))


def _portion(events: list[AnyEvent]) -> list[AnyEvent]:
    """The first of them: as many as one answer may have."""
    size = 0
    for n, event in enumerate(events[:MAX_EVENTS]):
        size += len(event.tokens) if isinstance(event, Stored) else 0
        if n and size > _MAX_TOLD_BYTES:
            return events[:n]
    return events[:MAX_EVENTS]
