"""Connections to the block channel that take time, memory or descriptors, and bring nothing."""

import contextlib
import queue
import socket
import struct
import threading
import time
from typing import Any

import pytest
import torch
from hostile_messages import prefixed
from waiting import until

from mempool import wire
from mempool.arena import DramArena
from mempool.layout import BlockLayout
from mempool.sockets import SocketLimits
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender
from mempool.transports.registry import Transports
from mempool.transports.stream import listener as stream_listener
from mempool.transports.stream.connection import StreamConnection

LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=2, layers=2, heads=1, k_plane_bytes=32, v_plane_bytes=32
)
SIGN, ANSWER = struct.pack("<II", 0, 0), struct.pack("<II", 0, 1)
HELLO = prefixed(wire.encode(wire.ChannelHello(wire.VERSION)))
SHORT = SocketLimits(silence_s=0.5)


class Ends:
    """A receiver, and honest senders to it."""

    def __init__(self, stack, **how):
        self.stack = stack
        self.receiver = BlockReceiver("stream://127.0.0.1:0", **how)
        stack.callback(self.receiver.close)
        self.sender = BlockSender()
        stack.callback(self.sender.close)

    def connect(self, hello=b""):
        port = int(self.receiver.endpoint.rpartition(":")[2])
        stranger = self.stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        stranger.sendall(hello)
        return stranger

    def carry(self):
        done, ended = queue.SimpleQueue(), queue.SimpleQueue()
        ticket = self.receiver.expect(DramArena(LAYOUT, 4), torch.tensor([1]), done.put, done.put)
        transfer = self.sender.open(DramArena(LAYOUT, 4), self.receiver.endpoint, ticket, ended.put)
        transfer.send(torch.tensor([2]), 0)
        transfer.finish(1, b"cookie")
        assert done.get(timeout=20) == b"cookie"
        assert ended.get(timeout=20) is None

    @property
    def listener(self):
        return self.receiver._listener


@pytest.fixture
def make_ends(open_things):
    return lambda **how: Ends(open_things, **how)


@pytest.fixture
def flood(open_things):
    """flood(socket, bytes): says it again and again, from a thread."""
    stopped = threading.Event()

    def run(stranger, noise):
        with contextlib.suppress(OSError):
            while not stopped.is_set():
                stranger.sendall(noise)

    def end(stranger):
        # The other side may have closed it.
        with contextlib.suppress(OSError):
            stranger.shutdown(socket.SHUT_RDWR)

    def make(stranger, noise):
        thread = threading.Thread(target=run, args=(stranger, noise), daemon=True)
        open_things.callback(thread.join, 20)
        open_things.callback(stranger.close)
        open_things.callback(end, stranger)
        open_things.callback(stopped.set)
        thread.start()

    return make


def is_closed(stranger):
    """Reads until the other side closes; False where it does not for a while."""
    stranger.settimeout(10)
    try:
        while stranger.recv(1000):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def is_closed_while_it_says(stranger, noise):
    """Not once it is silent: that would close it as well."""
    stranger.setblocking(False)
    for _ in range(200):
        time.sleep(0.05)
        try:
            stranger.sendall(noise)
            if not stranger.recv(1000):
                return True
        except BlockingIOError:
            continue
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize("noise", [SIGN * 8192, ANSWER * 8192])
def test_a_flood_leaves_the_reading_thread_its_other_work(make_ends, flood, noise):
    ends = make_ends()
    for _ in range(3):
        flood(ends.connect(HELLO), noise)
    time.sleep(0.3)
    closing = threading.Thread(target=ends.receiver.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()


@pytest.mark.parametrize("noise", [SIGN * 8192, ANSWER * 8192, HELLO * 1024])
def test_a_flood_of_whole_messages_starves_nobody(make_ends, flood, noise):
    ends = make_ends()
    stranger = ends.connect(HELLO)
    flood(stranger, noise)
    time.sleep(0.3)
    for _ in range(3):
        ends.carry()


def test_a_header_costs_memory_only_as_it_arrives(make_ends):
    ends = make_ends()
    for _ in range(100):
        ends.connect(HELLO + struct.pack("<II", wire.MAX_HEADER_BYTES, 0) + b"x")
    kept = lambda: [  # noqa: E731
        len(each._header.bytes) for each in list(ends.listener._by_source.values()) if each._header
    ]
    until(lambda: len(kept()) == 100)
    assert sum(kept()) < 1 << 20
    ends.carry()


def test_a_long_header_is_read_whole(make_ends):
    """Beyond what is taken for it at first, cut anywhere."""
    ends = make_ends()
    stranger = ends.connect(HELLO)
    header = wire.encode(wire.Fail(1, 0, "x" * 2000))
    message = prefixed(wire.encode(wire.Finish(1, 0, 1, b"y" * 200_000)))
    for part in (prefixed(header), message[:5], message[5:4100], message[4100:100_000], message[100_000:]):
        stranger.sendall(part)
        time.sleep(0.02)
    until(lambda: ends.receiver.strays == 2)


@pytest.mark.parametrize("start", [b"\x10", struct.pack("<II", 1000, 0), struct.pack("<II", 1000, 0) + b"x"])
@pytest.mark.parametrize("hello", [b"", HELLO])
def test_a_header_that_is_dripped_ends_its_connection(make_ends, hello, start):
    ends = make_ends(limits=SHORT)
    stranger = ends.connect(hello + start)
    # The second byte of a prefix of 16 makes no other message, however many follow.
    assert is_closed_while_it_says(stranger, b"\0" if len(start) > 1 else b"")


@pytest.mark.parametrize("says", [b"", SIGN, ANSWER])
def test_a_newcomer_that_sends_no_message_is_closed(make_ends, says):
    ends = make_ends(limits=SHORT)
    stranger = ends.connect()
    assert is_closed_while_it_says(stranger, says)


def test_what_is_about_to_be_read_is_waited_for_once(open_things):
    """Who drips always has a byte that was not read yet."""
    listener: Any = Transports().listen("stream://127.0.0.1:0", SHORT, 1 << 20)
    open_things.callback(listener.close)
    port = int(listener.endpoint.rpartition(":")[2])
    stranger = open_things.enter_context(socket.create_connection(("127.0.0.1", port)))
    until(lambda: listener.receive() is None and listener._by_source)

    def looked_at():
        stranger.send(b"\x10")
        listener.tend()
        return not listener._by_source

    until(looked_at, timeout_s=20)


def test_connections_that_say_nothing_give_way_to_those_that_do(make_ends, monkeypatch):
    monkeypatch.setattr(stream_listener, "max_connections", lambda: 8)
    ends = make_ends()
    for _ in range(50):
        ends.connect()
    ends.carry()
    assert len(ends.listener._by_source) <= 4
    assert ends.listener.refused >= 46


def test_connections_that_greet_are_bounded_and_the_honest_stay(make_ends, monkeypatch):
    monkeypatch.setattr(stream_listener, "max_connections", lambda: 8)
    ends = make_ends()
    ends.carry()
    strangers = [ends.connect(HELLO) for _ in range(20)]
    until(lambda: ends.listener.refused >= 17)
    assert sum(is_closed(each) for each in strangers[-16:]) >= 15
    ends.carry()


def test_the_number_of_connections_leaves_descriptors_for_the_rest(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda _: (200, 200))
    assert stream_listener.max_connections() == 50


@pytest.mark.parametrize("noise", [SIGN * 8192, ANSWER * 8192])
def test_a_receiver_that_floods_takes_no_memory_of_its_sender(make_ends, open_things, flood, noise):
    ends = make_ends()
    rogue = open_things.enter_context(socket.create_server(("127.0.0.1", 0)))
    ends.sender.open(
        DramArena(LAYOUT, 4), f"stream://127.0.0.1:{rogue.getsockname()[1]}", 1, lambda error: None
    )
    connection, _ = rogue.accept()
    flood(connection, noise)
    time.sleep(0.3)
    for _ in range(3):
        ends.carry()
        for peer in list(ends.sender._peers.values()):
            assert len(peer.connection._unread) + sum(map(len, peer.connection._inbox)) < 1 << 20


class EndlessSocket:
    """Has always more to read."""

    def __init__(self, real, noise):
        self.real, self.noise, self.given = real, noise, 0

    def recv(self, size):
        self.given += size
        assert self.given < 64 << 20, "it reads for ever"
        return (self.noise * (size // len(self.noise) + 1))[:size]

    def __getattr__(self, name):
        return getattr(self.real, name)


@pytest.mark.parametrize("noise", [SIGN, ANSWER, prefixed(wire.encode(wire.Ack(1, 2)))])
def test_a_sender_reads_a_part_of_a_flood_at_a_time(open_things, noise):
    rogue = open_things.enter_context(socket.create_server(("127.0.0.1", 0)))
    connection = StreamConnection(f"stream://127.0.0.1:{rogue.getsockname()[1]}", SocketLimits())
    open_things.callback(connection.close)
    until(lambda: connection.receive() is None and connection.opened)
    endless = connection._socket = EndlessSocket(connection._socket, noise)
    connection.receive()
    assert 0 < endless.given < 1 << 20
