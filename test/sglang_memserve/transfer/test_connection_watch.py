"""A prefill instance that dies is forgotten with its connection, however soon another is in its place."""

import queue

import pytest
import zmq
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import KVTransferError

from sglang_memserve.transfer.connection_watch import ConnectionWatch

ROOM, ADDRESS = 7, "127.0.0.1:1"


@pytest.fixture
def lost():
    return queue.Queue()


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def watch(context, lost):
    watch = ConnectionWatch(lost.put)
    yield watch
    watch.close()


@pytest.fixture
def open_socket(context, watch):
    """Opens sockets, which are closed before the watch is."""
    opened = []

    def open_socket(kind):
        opened.append(context.socket(kind))
        return opened[-1]

    yield open_socket
    for socket in opened:
        socket.close(linger=0)


@pytest.fixture
def pair(open_socket):
    """Makes prefill's listening socket and decode's socket to it, over which a message has come."""

    def connect():
        listener, socket = open_socket(zmq.PULL), open_socket(zmq.PUSH)
        socket.connect(f"tcp://127.0.0.1:{listener.bind_to_random_port('tcp://127.0.0.1')}")
        socket.send(b"hello")
        assert listener.recv() == b"hello"
        return listener, socket

    return connect


def test_a_connection_that_ends_names_its_instance(pair, watch, lost):
    (a, socket_a), (b, socket_b) = pair(), pair()
    watch.watch("a", socket_a)
    watch.watch("b", socket_b)
    b.close()
    assert lost.get(timeout=5) == "b"
    a.close()
    assert lost.get(timeout=5) == "a"


def test_a_port_without_a_listener_counts_as_an_end(open_socket, watch, lost, free_port):
    socket = open_socket(zmq.PUSH)
    socket.connect(f"tcp://127.0.0.1:{free_port()}")
    watch.watch("gone", socket)
    assert lost.get(timeout=5) == "gone"


def test_a_socket_that_its_owner_closes_is_no_end(pair, watch, lost):
    _end, socket = pair()
    watch.watch("a", socket)
    socket.close()
    with pytest.raises(queue.Empty):
        lost.get(timeout=0.5)


def test_connections_are_watched_after_a_callback_has_failed(pair, lost):
    def forget(name):
        lost.put(name)
        raise RuntimeError("a test's own")

    watch = ConnectionWatch(forget)
    for name in ("a", "b"):
        listener, socket = pair()
        watch.watch(name, socket)
        listener.close()
        assert lost.get(timeout=5) == name
        socket.close()
    watch.close()


def test_other_connections_work_after_one_has_ended(pair, watch, lost):
    """Events of vain attempts to reconnect must not hold up the process."""
    kept = [pair() for _ in range(3)]
    for number, (listener, socket) in enumerate(kept):
        watch.watch(str(number), socket)
        listener.close()
        assert lost.get(timeout=5) == str(number)
    listener, socket = pair()
    socket.send(b"still")
    assert listener.recv() == b"still"


def test_a_request_to_a_prefill_instance_that_dies_fails_at_once(split, tools):
    """Nothing that was known of the instance is used again: the next request looks it up."""
    manager, rank = split.d, split.context.socket(zmq.PULL)
    manager.connections = ConnectionWatch(manager._on_lost)
    receiver = split.receiver(ROOM)
    receiver.bootstrap_infos[0]["rank_port"] = rank.bind_to_random_port("tcp://127.0.0.1")
    manager.prefill_info_table, manager.heartbeat_failures = {ADDRESS: object()}, {}
    manager.connection_pool = {f"{ADDRESS}_0_0_0": receiver.bootstrap_infos}
    assert receiver._register_kv_args()
    receiver.send_metadata([1, 2], 3)
    assert rank.recv_multipart()
    rank.close()
    tools.until(lambda: receiver.poll() == KVPoll.Failed)
    with pytest.raises(KVTransferError, match="Lost connection with prefill"):
        receiver.failure_exception()
    assert not manager.prefill_info_table
    assert not manager.connection_pool
    manager.connections.close()
