"""A prefill instance that dies is forgotten with its connection, however soon another is in its place."""

import queue

import pytest
import zmq
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import KVTransferError

from sglang_memserve.transfer.connection_watch import ConnectionWatch

ROOM, ADDRESS = 7, "127.0.0.1:1"


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def lost():
    return queue.Queue()


@pytest.fixture
def watch(lost):
    watch = ConnectionWatch(lost.put)
    yield watch
    watch.close()


def pair(context):
    """What prefill listens at, and decode's line to it, over which something has come."""
    end, line = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    line.connect(f"tcp://127.0.0.1:{end.bind_to_random_port('tcp://127.0.0.1')}")
    line.send(b"hello")
    assert end.recv() == b"hello"
    return end, line


def test_a_connection_that_ends_tells_whose_it_was(context, watch, lost):
    (a, line_a), (b, line_b) = pair(context), pair(context)
    watch.watch("a", line_a)
    watch.watch("b", line_b)
    b.close()
    assert lost.get(timeout=5) == "b"
    a.close()
    assert lost.get(timeout=5) == "a"


def test_a_port_that_nobody_listens_at_counts_as_an_end(context, watch, lost, free_port):
    line = context.socket(zmq.PUSH)
    line.connect(f"tcp://127.0.0.1:{free_port()}")
    watch.watch("gone", line)
    assert lost.get(timeout=5) == "gone"


def test_a_line_that_its_owner_closes_is_no_end(context, watch, lost):
    _end, line = pair(context)
    watch.watch("a", line)
    line.close()
    with pytest.raises(queue.Empty):
        lost.get(timeout=0.5)


def test_one_failure_to_forget_an_instance_is_not_the_last_word(context, lost):
    def forget(name):
        lost.put(name)
        raise RuntimeError("a test's own")

    watch = ConnectionWatch(forget)
    for name in ("a", "b"):
        end, line = pair(context)
        watch.watch(name, line)
        end.close()
        assert lost.get(timeout=5) == name
    watch.close()


def test_others_are_heard_after_one_has_ended(context, watch, lost):
    """What one line goes on to tell, in vain attempts to connect, must not hold up its process."""
    kept = [pair(context) for _ in range(3)]
    for number, (end, line) in enumerate(kept):
        watch.watch(str(number), line)
        end.close()
        assert lost.get(timeout=5) == str(number)
    end, line = pair(context)
    line.send(b"still")
    assert end.recv() == b"still"


def test_a_request_told_to_a_prefill_instance_that_dies_fails_at_once(split, tools):
    """And nothing that was known of the instance is used again: the next request asks anew."""
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
