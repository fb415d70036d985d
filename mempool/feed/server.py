"""Answers followers on one thread, whatever their number and however long they wait for news."""

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
    MAX_EVENTS,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    EventBatch,
    FeedReply,
    FeedRequest,
    SnapshotReply,
    Unknown,
    decode_request,
    encode,
)
from mempool.feed.unread import LARGE_BYTES, MAX_UNREAD_BYTES, UnreadReplies
from mempool.guard import LoopGuard
from mempool.index.events import AnyEvent, Stored
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess
from mempool.security.authenticator import Authenticator, HandshakeMonitor
from mempool.sockets import SocketLimits, Wakeup, new_context, poll_ms, receive_parts, set_bounds
from mempool.wire import short

logger = logging.getLogger(__name__)

# Requests without a reply, one for each medium of a follower. Far more than there are routers.
MAX_WAITING = 4096
# A follower that reads has one reply for each medium under way.
_ANSWERS_UNREAD = 4
# Tokens in one batch, so that a follower need not take in a day's prompts at once.
_MAX_TOKEN_BYTES = 16 << 20
# So that a flood of requests does not keep the thread from those that wait.
_REQUESTS_A_TURN = 256
_AFTER_ERROR_MS = 100
# A follower may ask sooner than it is known here that it has read its last reply: the request waits for that.
_LOOK_AGAIN_S = 0.01
_MIN_HELD_S = 0.25


class _Waiting(NamedTuple):
    """`held`: it waits until the follower has read the reply before, and not for news."""

    request: FeedRequest
    until: float
    held: bool = False


class FeedServer:
    """Listens at `url` (tcp, ipc) for followers with DEALER sockets. A request is one frame, a reply another.

    Followers connect to `endpoint`. Of each follower the latest request for a medium is answered. Frames that
    break the protocol are dropped, and counted in `bad_frames`. A follower that does not read gets no other
    reply while a large one is unread, and nobody gets one that would make more than `max_unread_bytes` unread
    at all followers together: they ask again. `unread` counts these. `access` says who is heard. Raises
    MemPoolError when `url` cannot be listened at.
    """

    def __init__(
        self,
        url: str,
        feeds: Mapping[Medium, Feed],
        *,
        access: ClusterAccess = LOOPBACK_ONLY,
        max_waiting: int = MAX_WAITING,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
    ) -> None:
        access.check_bind(url)
        self.bad_frames = 0
        self._guard = LoopGuard("serving the feed")
        self._feeds = dict(feeds)
        self._max_waiting = max_waiting
        self.unread = UnreadReplies(max_unread_bytes)
        self._waiting: dict[tuple[bytes, Medium], _Waiting] = {}
        self._fresh = dict.fromkeys(feeds, False)
        self._context = new_context()
        self._authenticator = Authenticator(self._context, access)
        self._socket = self._context.socket(zmq.ROUTER)
        self._handshakes = HandshakeMonitor(self._socket)
        try:
            access.serve(self._socket, url)
            set_bounds(self._socket, url, SocketLimits())
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

    @property
    def refused(self) -> int:
        """Connections that were not let in."""
        return self._handshakes.refused

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
        self._handshakes.close()
        self._socket.close(linger=0)
        self._authenticator.close()
        self._context.term()

    def _has_news(self, medium: Medium) -> None:
        """From any thread. One wake-up does for all that happens before the thread looks."""
        if not self._fresh[medium]:
            self._fresh[medium] = True
            self._wakeup.set()

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._socket, self._handshakes.events, self._wakeup):
            poller.register(source, zmq.POLLIN)
        timeout: int | None = None
        while not self._stopping:
            poller.poll(timeout)
            self._wakeup.clear()
            timeout = _AFTER_ERROR_MS
            with self._guard:
                self._handshakes.read()
                self.unread.look()
                self._take_requests()
                self._answer_waiting()
                timeout = poll_ms(self._until_next())

    def _until_next(self) -> float | None:
        if not self._waiting:
            return None
        soonest = min(each.until for each in self._waiting.values()) - time.monotonic()
        held = any(each.held for each in self._waiting.values())
        return min(soonest, _LOOK_AGAIN_S) if held else soonest

    def _take_requests(self) -> None:
        for _ in range(_REQUESTS_A_TURN):
            try:
                sender, *frames = receive_parts(self._socket, 2)
            except zmq.Again:
                return
            try:
                if len(frames) != 1:
                    raise FrameError(f"{len(frames)} frames where one was expected")
                request = decode_request(frames[0].buffer)
            except FrameError as error:
                self.bad_frames += 1
                logger.debug("dropped a request: %s", error)
                continue
            with self._guard:
                self._take(sender.bytes, request)

    def _take(self, follower: bytes, request: FeedRequest) -> None:
        key = (follower, request.medium)
        self._waiting.pop(key, None)
        if self._answer(follower, request, last=not request.wait):
            return
        held = not self.unread.admits(follower)
        wait = max(request.wait, _MIN_HELD_S) if held else request.wait
        self._waiting[key] = _Waiting(request, time.monotonic() + wait, held)
        if len(self._waiting) > self._max_waiting:
            self._answer_now(next(iter(self._waiting)))

    def _answer_waiting(self) -> None:
        fresh = {medium for medium, is_fresh in self._fresh.items() if is_fresh}
        self._fresh.update(dict.fromkeys(fresh, False))
        now = time.monotonic()
        for key, waiting in list(self._waiting.items()):
            if waiting.until <= now:
                with self._guard:
                    self._answer_now(key)
            elif waiting.held or waiting.request.medium in fresh:
                if self._answer(key[0], waiting.request, last=False):
                    del self._waiting[key]
                else:
                    self._waiting[key] = waiting._replace(held=not self.unread.admits(key[0]))

    def _answer_now(self, key: tuple[bytes, Medium]) -> None:
        """It waits no longer: it gets an answer without news, or none if the one before is not read yet."""
        if not self._answer(key[0], self._waiting.pop(key).request, last=True):
            self.unread.dropped += 1

    def _answer(self, follower: bytes, request: FeedRequest, *, last: bool) -> bool:
        """Whether it was answered. Without news, only the `last` time is; and not before the reply to the
        follower that came before is read.
        """
        if not self.unread.admits(follower):
            return False
        frame = self._frame(request, last)
        if frame is None:
            return False
        try:
            self._send(follower, frame)
        except zmq.ZMQError as error:
            logger.debug("a reply could not be sent: %s", error)
        return True

    def _send(self, follower: bytes, frame: bytes) -> None:
        if len(frame) < LARGE_BYTES:
            self._socket.send_multipart([follower, frame], zmq.NOBLOCK)
        elif self.unread.has_room_for(len(frame)):
            tracker = self._socket.send_multipart([follower, frame], zmq.NOBLOCK, copy=False, track=True)
            assert tracker is not None
            self.unread.add(follower, len(frame), tracker)
        else:
            self.unread.dropped += 1

    def _frame(self, request: FeedRequest, last: bool) -> bytes | None:
        feed = self._feeds.get(request.medium)
        if feed is None:
            return encode(Unknown(request.number, f"no feed of {request.medium} here"))
        events = feed.events_after(request.incarnation, request.seq)
        if events is None:
            return self._snapshot_reply(request, feed)
        if not events and not last:
            return None
        return _encoded(EventBatch(request.number, request.incarnation, _portion(events)))

    def _snapshot_reply(self, request: FeedRequest, feed: Feed) -> bytes:
        incarnation, snapshot = feed.snapshot()
        return _encoded(SnapshotReply(request.number, incarnation, snapshot))


def _encoded(reply: FeedReply) -> bytes:
    frame = encode(reply)
    if len(frame) <= MAX_REPLY_BYTES:
        return frame
    reason = f"a reply of {len(frame)} bytes, at most {MAX_REPLY_BYTES} can be sent"
    logger.warning("the feed has %s", reason)
    return encode(Unknown(reply.number, short(reason)))


def _portion(events: list[AnyEvent]) -> list[AnyEvent]:
    """As many of the first events as one reply may have."""
    size = 0
    for n, event in enumerate(events[:MAX_EVENTS]):
        size += len(event.tokens) if isinstance(event, Stored) else 0
        if n and size > _MAX_TOKEN_BYTES:
            return events[:n]
    return events[:MAX_EVENTS]
