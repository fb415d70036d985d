"""What a peer says about where it is reached harms nobody but itself."""

import queue
import socket

import pytest

from mempool.address import Medium
from mempool.arena import DramArena
from mempool.config import MemPoolConfig
from mempool.errors import MemPoolError, PeerDied
from mempool.layout import BlockLayout
from mempool.membership.messages import Heartbeat, InstanceInfo, Join, decode_to_member, encode
from mempool.membership.registry_server import MembershipRegistry
from mempool.pool import MemPool
from mempool.sockets import SocketLimits
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender
from mempool.transports.registry import Transports
from mempool.transports.zeromq import ZeroMQ

LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=2, layers=2, heads=1, k_plane_bytes=32, v_plane_bytes=32
)
AT = {"control": "tcp://127.0.0.1:9", "data": "stream://127.0.0.1:9"}


class Odd:
    """A transport whose `connect` raises what nobody thought of."""

    def connect(self, endpoint, limits):
        kinds = {"unicode": UnicodeError("label empty"), "value": ValueError("null"), "key": KeyError("x")}
        raise kinds[endpoint.removeprefix("odd://")]


@pytest.fixture
def transports():
    made = Transports()
    made.register("odd", Odd())
    return made


def info(**changes):
    return InstanceInfo(
        **{"instance": "x", "incarnation": 1, "role": "x", "layout": LAYOUT, "namespace": {}, **AT, **changes}
    )


@pytest.mark.parametrize("kind", ["unicode", "value", "key"])
def test_whatever_connecting_raises_the_sender_goes_on(transports, open_things, kind):
    sender, ended = BlockSender(transports=transports), queue.SimpleQueue()
    open_things.callback(sender.close)
    for _ in range(2):
        sender.open(DramArena(LAYOUT, 4), f"odd://{kind}", 1, ended.put)
        assert isinstance(ended.get(timeout=20), PeerDied)
    assert sender.errors == 2


@pytest.mark.parametrize("kind", ["unicode", "value", "key"])
def test_whatever_connecting_raises_the_control_thread_goes_on(transports, open_things, kind):
    config = MemPoolConfig(instance="pool")
    pool = MemPool(config, stores={Medium.DRAM: DramArena(LAYOUT, 4)}, transports=transports)
    open_things.enter_context(pool)
    pool.introduce(info(control=f"odd://{kind}"))
    for _ in range(2):
        with pytest.raises(PeerDied, match="cannot connect"):
            pool.alloc_mem(1, Medium.DRAM, "x")
    assert pool.counters()["errors"] == 2


def test_no_descriptor_is_left_for_a_socket_and_others_go_on(monkeypatch):
    """ZeroMQ's own error is no OSError."""
    transport = ZeroMQ()
    context = transport.acquire()
    monkeypatch.setattr(type(context), "socket", lambda *_: (_ for _ in ()).throw(zmq_error()))
    with pytest.raises(MemPoolError, match="cannot open a socket"):
        transport.connect("tcp://127.0.0.1:9", SocketLimits())
    monkeypatch.undo()
    transport.release()
    assert transport._context is None


def zmq_error():
    import errno

    import zmq

    return zmq.ZMQError(errno.EMFILE)


@pytest.mark.parametrize(
    "data", ["stream://a..b:1", f"stream://{'a' * 64}:1", "stream://a:0", "tcp://[::g]:1"]
)
def test_a_member_that_names_no_address_does_not_join(dealer, open_things, data):
    registry = MembershipRegistry("tcp://127.0.0.1:0")
    open_things.callback(registry.close)
    stranger = dealer(registry.endpoint)
    stranger.send(
        encode(Join(info(), bytes(16))).replace(
            b"\xb4" + AT["data"].encode(), bytes([0xD9, len(data)]) + data.encode()
        )
    )
    stranger.send(encode(Heartbeat("x", 1)))
    decode_to_member(stranger.recv())
    assert registry.bad_frames == 1


def test_a_sender_keeps_so_many_connections_and_drops_the_unused(open_things):
    sender, arena = BlockSender(max_peers=2), DramArena(LAYOUT, 4)
    open_things.callback(sender.close)
    receivers = [BlockReceiver("stream://127.0.0.1:0") for _ in range(5)]
    for receiver in receivers:
        open_things.callback(receiver.close)
        ended = queue.SimpleQueue()
        transfer = sender.open(arena, receiver.endpoint, 1, ended.put)
        transfer.finish(0)
        assert "does not wait" in ended.get(timeout=20).cause
    assert list(sender._peers) == [receiver.endpoint for receiver in receivers[-2:]]


def test_a_sender_whose_connections_are_all_in_use_refuses_another(open_things):
    sender, arena = BlockSender(max_peers=2), DramArena(LAYOUT, 4)
    open_things.callback(sender.close)
    silent = [open_things.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
    ended = queue.SimpleQueue()
    for server in silent:
        # Never welcomed: what is queued for it stays.
        sender.open(arena, f"stream://127.0.0.1:{server.getsockname()[1]}", 1, ended.put)
    assert "2 receivers are being sent to" in ended.get(timeout=20).cause
