"""An instance's side of a feed, over an index that a test changes; and what its follower knows."""

import asyncio
import time
from collections import Counter

import numpy as np
import zmq

from mempool.address import Addresses, Medium, Owner
from mempool.feed import messages
from mempool.feed.messages import EventBatch, SnapshotReply, Unknown
from mempool.index.index import Index
from router.instances.instance import Instance, Role
from router.instances.server_info import FeedAt, ServerInfo
from router.kv_events import FeedTiming
from router.kv_events.progress import FeedProgress

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
