import threading
from types import SimpleNamespace

import pytest
import torch
import zmq
from waiting import until

from mempool import wire
from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender

PAGE_SIZE, HEADS, DIM = 16, 3, 64


def layout(layers: int = 4, kind: str = "mha") -> BlockLayout:
    plane = PAGE_SIZE * HEADS * DIM * 2
    return BlockLayout(
        kind=kind,
        dtype="bfloat16",
        page_size=PAGE_SIZE,
        layers=layers,
        heads=HEADS,
        k_plane_bytes=plane,
        v_plane_bytes=plane if kind == "mha" else 0,
    )


def paged(pages: int, *, seed: int | None = None, layers: int = 4, kind: str = "mha") -> PagedBuffers:
    """Buffers as an engine has them, `[slots, heads, dim]` a plane: zeros, or random by `seed`."""
    generator = torch.Generator().manual_seed(seed or 0)
    shape = (pages * PAGE_SIZE, HEADS, DIM)
    count = len(layout(layers, kind).plane_bytes)
    planes = [
        torch.zeros(shape, dtype=torch.bfloat16)
        if seed is None
        else torch.randn(shape, generator=generator).to(torch.bfloat16)
        for _ in range(count)
    ]
    buffers = PagedBuffers(planes, layout(layers, kind))
    buffers.engine_planes = planes
    return buffers


@pytest.fixture
def make_paged():
    return paged


class Outcome:
    """What became of one side of a transfer."""

    def __init__(self):
        self.happened = threading.Event()
        self.private = self.error = None
        self.calls = 0

    def done(self, private=None):
        self.private, self.calls = private, self.calls + 1
        self.happened.set()

    def ended(self, error):
        self.error, self.calls = error, self.calls + 1
        self.happened.set()

    def wait(self):
        assert self.happened.wait(20), "the transfer never ended"
        return self


class Channel:
    """A sender and a receiver with a store each; both are closed after the test."""

    def __init__(
        self, source, target, *, url="stream://127.0.0.1:0", to_sender=None, to_receiver=None, encrypt=False
    ):
        self.source, self.target = source, target
        self.sender = BlockSender(**(to_sender or {}))
        self.receiver = BlockReceiver(url, encrypt=encrypt, **(to_receiver or {}))

    def begin(self, pages, *, receiver=None, after=None, **how):
        """A transfer into `pages`, and the outcomes at the receiver and at the sender."""
        receiver = receiver or self.receiver
        there, here = Outcome(), Outcome()
        pages = torch.tensor(pages, dtype=torch.int64)
        key = receiver.new_key()
        ticket = receiver.expect(self.target, pages, there.done, there.ended, after, key)
        transfer = self.sender.open(self.source, receiver.endpoint, ticket, here.ended, key=key, **how)
        return transfer, there, here

    def carry_one(self, page, *, receiver=None, **how):
        """A transfer of block 1, which both sides must see succeed."""
        transfer, there, here = self.begin([page], receiver=receiver, **how)
        transfer.send(torch.tensor([1]), 0)
        transfer.finish(1)
        assert here.wait().error is None
        assert there.wait().error is None
        assert torch.equal(blocks_of(self.target, [page]), blocks_of(self.source, [1]))

    def close(self):
        self.sender.close()
        self.receiver.close()


def blocks_of(store, pages):
    out = store.host_bytes(len(pages) * store.layout.block_bytes).view(len(pages), -1)
    store.gather(torch.tensor(pages), out)
    return out


class MuteReceiver:
    """A listener that welcomes its first sender, and then does what the test wants, nothing by itself."""

    def __init__(self, version=wire.VERSION, window_bytes=1 << 20):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.welcome = wire.Welcome(version, window_bytes)

    def greet(self):
        self.sender, _ = self.receive()
        self.say(self.welcome)

    def receive(self):
        """The sender's name and the message's frames, the header decoded."""
        assert self.socket.poll(10_000), "nothing came"
        source, header, *payload = self.socket.recv_multipart()
        return source, [wire.decode_to_receiver(header), *payload]

    def say(self, message):
        self.socket.send_multipart([self.sender, wire.encode(message)])

    def close(self):
        self.context.destroy(linger=0)


@pytest.fixture
def make_channel():
    """make_channel(source, target, url=, to_sender=, to_receiver=): a Channel with these settings."""
    made = []

    def make(*args, **kwargs):
        made.append(Channel(*args, **kwargs))
        return made[-1]

    yield make
    for channel in made:
        channel.close()


@pytest.fixture
def mute():
    receivers = []

    def make(**kwargs):
        receivers.append(MuteReceiver(**kwargs))
        return receivers[-1]

    yield make
    for receiver in receivers:
        receiver.close()


@pytest.fixture
def tools():
    return SimpleNamespace(blocks_of=blocks_of, until=until, Outcome=Outcome, layout=layout)
