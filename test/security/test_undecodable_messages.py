"""No message ends a thread: each end counts what it cannot read, and serves the next peer."""

import contextlib
import logging
import queue
import socket
import threading

import msgspec
import numpy as np
import pytest
import zmq
from hostile_messages import hostile, prefixed, with_field
from waiting import until

from mempool import wire
from mempool.address import Medium
from mempool.arena import DramArena
from mempool.config import MemPoolConfig
from mempool.errors import FrameError, PeerDied, TransferError
from mempool.feed.messages import FeedRequest
from mempool.feed.server import FeedServer
from mempool.index.index import Index
from mempool.layout import BlockLayout
from mempool.membership import messages as membership
from mempool.membership.client import MembershipClient
from mempool.membership.registry_server import MembershipRegistry
from mempool.pool import MemPool
from mempool.remote import messages
from mempool.remote.messages import AllocMem, Call, Caller, FetchEnded, FetchRequest, FreeMem, Offer
from mempool.transfer.sender import BlockSender
from router.kv_events.replies import decode_event, decode_reply

LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=2, layers=2, heads=1, k_plane_bytes=32, v_plane_bytes=32
)
INFO = membership.InstanceInfo(
    instance="stranger", incarnation=7, role="x", layout=LAYOUT, namespace={"model": "m"},
    control="tcp://127.0.0.1:9", data="stream://127.0.0.1:9",
)  # fmt: skip
TOKENS = messages.pack(np.arange(4))
CALLS = [
    messages.encode(Call(1, Caller("stranger", 1), 5.0, request))
    for request in (
        AllocMem(Medium.DRAM, 0),
        FreeMem(Medium.DRAM, 7, TOKENS),
        Offer(layout=LAYOUT, medium=Medium.DRAM, count=0, tokens=TOKENS, incarnation=3, blocks=b""),
        FetchRequest(TOKENS, "", b"c" * 16, True),
        FetchEnded(b"c" * 16),
    )
]


@pytest.fixture
def make_pool(open_things):
    def make(name="pool"):
        stores = {Medium.DRAM: DramArena(LAYOUT, 16)}
        return open_things.enter_context(MemPool(MemPoolConfig(instance=name), stores=stores))

    return make


@pytest.fixture
def no_traceback(caplog):
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def alive(name):
    return any(thread.name == name for thread in threading.enumerate())


def fails_as_frame_error(decode, frame):
    try:
        decode(frame)
    except FrameError:
        return True
    return False


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        *((messages.decode_call, call) for call in CALLS),
        (messages.decode_reply, messages.encode(messages.CallReply(1, messages.Allocated(1, b"")))),
        (membership.decode_to_registry, membership.encode(membership.Join(INFO, bytes(16)))),
        (membership.decode_to_registry, membership.encode(membership.Heartbeat("a", 1))),
        (
            membership.decode_to_member,
            membership.encode(
                membership.ChangeNotice(1, membership.Change(membership.ChangeKind.DIED, INFO))
            ),
        ),
        (wire.decode_to_receiver, wire.encode(wire.Blocks(1, 2, 3, 4, 5, 6))),
        (wire.decode_to_receiver, wire.encode(wire.Sealed(1, 2, 3, b"a box", b"a tag"))),
        (wire.decode_to_sender, wire.encode(wire.Refuse(1, 2, "a reason"))),
        (decode_reply, b"\x84\xa4type\xabevent_batch\xa6number\x01\xabincarnation\x01\xa6events\x90"),
        (decode_event, b"\x83\xa4type\xa7Cleared\xa3seq\x01\xa9namespace\xc0"),
    ],
)
def test_decoding_fails_as_a_frame_error_and_as_nothing_else(decode, message):
    decode(message)
    assert sum(fails_as_frame_error(decode, frame) for frame in hostile(message)) > 40


def test_no_call_ends_the_control_thread(make_pool, dealer, no_traceback):
    pool, friend = make_pool(), make_pool("friend")
    friend.introduce(pool.info)
    stranger = dealer(pool.info.control)
    for call in CALLS:
        for frame in hostile(call):
            stranger.send(frame)
    friend.free_mem(friend.alloc_mem(2, Medium.DRAM, "pool"))
    until(lambda: pool.counters()["bad_frames"] > 300)
    assert pool.counters()["errors"] == 0


def test_a_call_that_cannot_be_served_costs_its_caller_alone(make_pool, dealer, monkeypatch):
    pool, friend = make_pool(), make_pool("friend")
    friend.introduce(pool.info)
    serve = pool._exchange.serving._alloc

    def fail_for_strangers(caller, request):
        if caller.instance == "stranger":
            raise KeyError("nobody expected this")
        return serve(caller, request)

    monkeypatch.setattr(pool._exchange.serving, "_alloc", fail_for_strangers)
    stranger = dealer(pool.info.control)
    for _ in range(100):
        stranger.send(CALLS[0])
    until(lambda: pool.counters()["errors"] == 100)
    friend.free_mem(friend.alloc_mem(2, Medium.DRAM, "pool"))


def test_no_frame_ends_the_registry(dealer, no_traceback, open_things):
    registry = MembershipRegistry("tcp://127.0.0.1:0")
    open_things.callback(registry.close)
    stranger = dealer(registry.endpoint)
    for message in (membership.Join(INFO, bytes(16)), membership.Heartbeat("a", 1), membership.Leave("a", 1)):
        for frame in hostile(membership.encode(message)):
            stranger.send(frame)
    friend = dealer(registry.endpoint)
    friend.send(membership.encode(membership.Heartbeat("nobody", 1)))
    assert isinstance(membership.decode_to_member(friend.recv()), membership.Refusal)
    until(lambda: registry.bad_frames > 100)


def test_no_request_ends_the_feed(dealer, no_traceback, open_things):
    index = Index(4, on_freed=lambda freed: None)

    class Feed:
        events_after = staticmethod(lambda incarnation, seq: None)
        snapshot = staticmethod(lambda: (7, index.snapshot()))
        listen = staticmethod(lambda on_news: None)

    feed = FeedServer("tcp://127.0.0.1:0", {Medium.DRAM: Feed()})
    open_things.callback(feed.close)
    stranger = dealer(feed.endpoint)
    request = membership.encode(FeedRequest(1, Medium.DRAM, 7, -1, 0.0))
    for frame in hostile(request):
        stranger.send(frame)
    friend = dealer(feed.endpoint)
    friend.send(request)
    assert decode_reply(friend.recv()).incarnation == 7
    until(lambda: feed.bad_frames > 50)


@pytest.mark.parametrize("greets", [False, True])
def test_no_message_ends_the_receiver(make_pool, no_traceback, greets):
    pool, friend = make_pool(), make_pool("friend")
    friend.introduce(pool.info)
    host, _, port = pool.info.data.removeprefix("stream://").rpartition(":")
    hello = prefixed(wire.encode(wire.ChannelHello(wire.VERSION))) if greets else b""
    thrown = 0
    for message in (
        wire.Blocks(1, 2, 3, 4, 5, 6),
        wire.Finish(1, 2, 3, b"p"),
        wire.ChannelHello(1),
        wire.Sealed(1, 2, 3, b"a box", b"a tag"),
    ):
        for frame in hostile(wire.encode(message)):
            with socket.create_connection((host, int(port)), 10) as stranger:
                stranger.sendall(hello + prefixed(frame, b"x" * 64))
            thrown += 1
    until(lambda: pool.counters()["bad_frames"] > thrown / 2)
    blocks = friend.alloc_mem(1, Medium.DRAM)
    friend.transfer("pool", blocks)
    assert pool.counters()["errors"] == 0


class RogueReceiver(threading.Thread):
    """Answers the first message of each connection with `answer`."""

    def __init__(self, answer):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"stream://127.0.0.1:{self.listener.getsockname()[1]}"
        self.answer = answer
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(1000)
                connection.sendall(self.answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1000):
                    pass


def test_no_answer_ends_the_sender(make_pool, no_traceback, open_things):
    sender, arena = BlockSender(), DramArena(LAYOUT, 4)
    open_things.callback(sender.close)
    welcome = wire.encode(wire.Welcome(wire.VERSION, 1 << 20))
    answers = [welcome[:-1], *list(hostile(welcome))[:30], with_field(welcome, b"\x91" * 1200 + b"\xc0")]
    for answer in answers:
        rogue, outcome = RogueReceiver(prefixed(answer)), queue.SimpleQueue()
        sender.open(arena, rogue.endpoint, 1, outcome.put)
        assert isinstance(outcome.get(timeout=20), TransferError)
        rogue.listener.close()
    assert alive("mempool-sender")
    assert sender.errors == 0


def test_no_word_of_a_rogue_registry_ends_the_membership(dealer, no_traceback, open_things):
    context = zmq.Context()
    open_things.callback(context.destroy, linger=0)
    rogue = context.socket(zmq.ROUTER)
    port = rogue.bind_to_random_port("tcp://127.0.0.1")
    honest = MembershipRegistry("tcp://127.0.0.1:0")
    open_things.callback(honest.close)
    nothing = {"on_change": print, "on_fenced": print, "on_stopped": print}
    member = MembershipClient(INFO, [f"tcp://127.0.0.1:{port}", honest.endpoint], heartbeat_s=0.1, **nothing)
    open_things.callback(member.close)
    member.join()
    snapshot = membership.MembershipSnapshot(1, 1, (membership.MemberStatus(INFO),), True)
    frames = hostile(membership.encode(snapshot))
    for frame in list(frames)[:40]:
        assert rogue.poll(20_000), "the member does not come back"
        source, _ = rogue.recv_multipart()
        rogue.send_multipart([source, frame])
    assert alive("mempool-member")
    other = MembershipClient(msgspec.structs.replace(INFO, instance="other"), [honest.endpoint], **nothing)
    open_things.callback(other.close)
    other.join()
    until(lambda: "other" in member.members)


def test_no_answer_ends_the_control_client(make_pool, no_traceback, open_things):
    pool, friend = make_pool(), make_pool("friend")
    pool.introduce(friend.info)
    context = zmq.Context()
    open_things.callback(context.destroy, linger=0)
    rogue = context.socket(zmq.ROUTER)
    port = rogue.bind_to_random_port("tcp://127.0.0.1")
    pool.introduce(msgspec.structs.replace(INFO, namespace={}, control=f"tcp://127.0.0.1:{port}"))
    reply = messages.encode(messages.CallReply(1, messages.Allocated(1, b"")))
    for frame in list(hostile(reply))[:25]:
        asked = pool.start.alloc_mem(1, Medium.DRAM, "stranger", timeout_s=20)
        source, _ = rogue.recv_multipart()
        rogue.send_multipart([source, frame])
        with pytest.raises(PeerDied, match="bad frame"):
            asked.result(20)
    pool.free_mem(pool.alloc_mem(1, Medium.DRAM, "friend"))
    assert pool.counters()["errors"] == 0
