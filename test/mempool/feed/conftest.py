import threading

import pytest
import zmq

from mempool.address import Addresses, Medium, Owner
from mempool.feed.feed import IndexFeed
from mempool.feed.messages import FeedRequest, decode_reply, encode
from mempool.feed.server import FeedServer
from mempool.index.index import Index

PAGE = 4
DRAM = Owner("a", 7, Medium.DRAM)


class Source:
    """An index of one letter a block, as an instance would serve it."""

    def __init__(self, **settings):
        self.lock, self.incarnation, self.settings = threading.RLock(), DRAM.incarnation, settings
        self.feed = IndexFeed(self.lock, lambda: (self.incarnation, self.index))
        self.index = self._new()

    def _new(self):
        return Index(PAGE, on_freed=lambda freed: None, on_event=self.feed.news, **self.settings)

    def reset_incarnation(self):
        with self.lock:
            self.incarnation, self.index = self.incarnation + 1, self._new()
            self.feed.news()

    def insert(self, letters, *blocks):
        tokens = [ord(letter) for letter in letters for _ in range(PAGE)]
        with self.lock:
            self.index.insert("", tokens, [Addresses(DRAM, blocks)])


class FeedClient:
    def __init__(self, socket):
        self.socket, self.number = socket, 0

    def send(self, seq, *, incarnation=DRAM.incarnation, medium=Medium.DRAM, wait=0.0):
        self.number += 1
        self.socket.send(encode(FeedRequest(self.number, medium, incarnation, seq, wait)))

    def answer(self):
        assert self.socket.poll(10_000), "no answer"
        return decode_reply(self.socket.recv())

    def request(self, seq, **how):
        self.send(seq, **how)
        answer = self.answer()
        assert answer.number == self.number
        return answer


@pytest.fixture
def make_source():
    return Source


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def make_server(open_things):
    def make(feeds, **how):
        server = FeedServer("tcp://127.0.0.1:0", feeds, **how)
        open_things.callback(server.close)
        return server

    return make


@pytest.fixture
def make_follower(open_things):
    context = zmq.Context()
    open_things.callback(context.destroy, linger=0)

    def make(server, **options):
        socket = context.socket(zmq.DEALER)
        open_things.callback(socket.close, linger=0)
        for option, value in options.items():
            socket.setsockopt(getattr(zmq, option), value)
        socket.connect(server.endpoint)
        return FeedClient(socket)

    return make


@pytest.fixture
def server(make_server, source):
    return make_server({Medium.DRAM: source.feed})


@pytest.fixture
def follower(make_follower, server):
    return make_follower(server)
