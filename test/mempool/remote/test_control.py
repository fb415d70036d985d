"""The control socket: what comes in wrong, late, or to nobody."""

import math
import threading
from concurrent.futures import Future

import numpy as np
import pytest
import zmq
from waiting import until

from mempool.address import Addresses, Medium, Owner
from mempool.errors import DeadlinePassed, OutOfBlocks, PeerDied
from mempool.remote import messages
from mempool.remote.control import Control
from mempool.remote.messages import (
    Allocated,
    AllocMem,
    Caller,
    CallReply,
    Done,
    FreeMem,
    decode_call,
)
from mempool.remote.requests import RequestQueue
from mempool.sockets import SocketLimits
from mempool.transports.inproc import InProcess
from mempool.transports.registry import Transports

LOCAL = "tcp://127.0.0.1:0"
ME = Caller("me", 7)


@pytest.fixture
def make_control(open_things):
    def make(serve=lambda call: Done(), url=LOCAL, transports=None):
        requests = RequestQueue()
        control = Control(
            url, lambda: ME, serve, requests, limits=SocketLimits(), transports=transports or Transports()
        )
        open_things.callback(lambda: control._thread.is_alive() and control.close())
        control.send = requests.send
        return control

    return make


@pytest.fixture
def slow_owner(make_control):
    """An owner that answers when it may, and the requests that it got."""
    asked, go = [], threading.Event()

    def serve(call):
        asked.append(call.request)
        assert go.wait(20)
        return Allocated(9, messages.pack(np.array([3, 4]))) if isinstance(call.request, AllocMem) else Done()

    yield make_control(serve), asked, go
    go.set()


class LateToOpen(InProcess):
    def __init__(self):
        super().__init__()
        self.connections = []

    def connect(self, endpoint, limits):
        connection = super().connect(endpoint, limits)
        connection.opened = False
        self.connections.append(connection)
        return connection


def test_bad_replies_end_the_connection_and_the_next_request_works(make_control, open_things):
    context = zmq.Context()
    open_things.callback(context.destroy, linger=0)
    liar = context.socket(zmq.ROUTER)
    open_things.callback(liar.close, linger=0)
    endpoint = f"tcp://127.0.0.1:{liar.bind_to_random_port('tcp://127.0.0.1')}"
    control = make_control()
    for n, lie in enumerate([[b"junk"], [b"", b""], [messages.encode(CallReply(1, Done()))[:-1]]], start=1):
        reply = control.send(endpoint, AllocMem(Medium.HBM, 1), 20.0)
        assert liar.poll(10_000)
        source, _ = liar.recv_multipart()
        # To a question that was never put: nobody minds.
        liar.send_multipart([source, messages.encode(CallReply(999, Done()))])
        liar.send_multipart([source, *lie])
        with pytest.raises(PeerDied, match="bad frame"):
            reply.result(20)
        assert control.bad_frames == n
    reply = control.send(endpoint, AllocMem(Medium.HBM, 1), 20.0)
    source, frame = liar.recv_multipart()
    liar.send_multipart([source, messages.encode(CallReply(decode_call(frame).id, Done()))])
    assert reply.result(20) == Done()


def test_a_slow_owner_costs_its_caller_the_deadline_and_nobody_else(make_control, slow_owner):
    slow, _, go = slow_owner
    other, control = make_control(), make_control()
    late = control.send(slow.endpoint, FreeMem(Medium.HBM, 9, b""), 0.2)
    assert control.send(other.endpoint, FreeMem(Medium.HBM, 9, b""), 20.0).result(20) == Done()
    with pytest.raises(DeadlinePassed):
        late.result(20)
    go.set()
    assert control.send(slow.endpoint, FreeMem(Medium.HBM, 9, b""), 20.0).result(20) == Done()


def test_blocks_that_come_after_the_deadline_are_given_back(make_control, slow_owner):
    slow, asked, go = slow_owner
    control = make_control()
    late = control.send(slow.endpoint, AllocMem(Medium.HBM, 2), 0.2)
    with pytest.raises(DeadlinePassed):
        late.result(20)
    go.set()
    until(lambda: len(asked) == 2)
    assert asked[1] == FreeMem(Medium.HBM, 9, messages.pack(np.array([3, 4])))


def test_what_could_not_be_sent_in_time_is_not_sent_later(make_control):
    """As where a stopped process goes on: its host took the connection, and it answers the greeting late."""
    late, asked = LateToOpen(), []
    transports = Transports()
    transports.register("late", late)
    owner = make_control(lambda call: asked.append(call.request) or Done(), "late://owner", transports)
    control = make_control(url="late://caller", transports=transports)
    with pytest.raises(DeadlinePassed):
        control.send(owner.endpoint, AllocMem(Medium.HBM, 2), 0.2).result(20)
    late.connections[0].opened = True
    assert control.send(owner.endpoint, FreeMem(Medium.HBM, 9, b""), 20.0).result(20) == Done()
    assert asked == [FreeMem(Medium.HBM, 9, b"")]


def test_a_question_to_nobody_ends_at_once_and_again(make_control):
    control = make_control()
    for _ in range(3):
        with pytest.raises(PeerDied):
            control.send("tcp://127.0.0.1:9", AllocMem(Medium.HBM, 1), 20.0).result(20)
    for endpoint in ("tcp://not a host", "carrier-pigeon://x", "inproc://nobody"):
        with pytest.raises(PeerDied):
            control.send(endpoint, AllocMem(Medium.HBM, 1), 20.0).result(20)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.nan])
def test_a_deadline_that_has_passed_is_said_so(make_control, timeout_s):
    control = make_control()
    with pytest.raises(DeadlinePassed):
        control.send(make_control().endpoint, AllocMem(Medium.HBM, 1), timeout_s).result(20)


def test_a_deadline_may_be_far_away(make_control):
    asks = make_control(), make_control()
    for timeout_s in (5_000.0, 1e12, math.inf):
        assert asks[0].send(asks[1].endpoint, FreeMem(Medium.HBM, 1, b""), timeout_s).result(20) == Done()


def test_an_answer_to_one_who_has_cancelled_is_dropped(make_control, slow_owner):
    slow, asked, go = slow_owner
    control = make_control()
    first, second = (control.send(slow.endpoint, FreeMem(Medium.HBM, 9, b""), 20.0) for _ in range(2))
    until(lambda: asked)
    assert first.cancel()
    go.set()
    assert second.result(20) == Done()
    overdue: Future = control.send(slow.endpoint, FreeMem(Medium.HBM, 9, b""), 20.0)
    overdue.cancel()
    assert control.send(slow.endpoint, FreeMem(Medium.HBM, 9, b""), 20.0).result(20) == Done()


def test_what_was_asked_when_the_owner_dies_ends_with_that(make_control, slow_owner):
    slow, asked, go = slow_owner
    control = make_control()
    replies = [control.send(slow.endpoint, AllocMem(Medium.HBM, 1), 60.0) for _ in range(5)]
    until(lambda: asked)
    closing = threading.Thread(target=slow.close)
    closing.start()
    until(lambda: slow._stopping)
    go.set()
    closing.join(20)
    outcomes = [reply.exception(20) for reply in replies]
    assert all(isinstance(error, PeerDied) for error in outcomes[1:])


def test_closing_ends_what_was_asked(make_control, slow_owner):
    slow, _, _ = slow_owner
    control = make_control()
    reply = control.send(slow.endpoint, AllocMem(Medium.HBM, 1), 60.0)
    control.close()
    with pytest.raises(PeerDied, match="stops"):
        reply.result(20)


def test_the_owners_error_is_the_callers(make_pool):
    pool, friend = make_pool("pool"), make_pool("friend")
    friend.introduce(pool.info)
    with pytest.raises(OutOfBlocks, match="17 blocks asked") as caught:
        friend.alloc_mem(17, Medium.DRAM, "pool")
    assert caught.value.owner == Owner("pool", pool.info.incarnation, Medium.DRAM)
    others = friend.alloc_mem(2, Medium.DRAM, "pool")
    thief = make_pool("thief")
    thief.introduce(pool.info)
    with pytest.raises(messages.BadAddress, match="not held for thief"):
        thief.free_mem(Addresses(others.owner, others.blocks))
    friend.free_mem(others)
    assert pool.counters()["held_blocks"] == 0
