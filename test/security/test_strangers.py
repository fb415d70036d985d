"""Who has not the cluster's key is not heard at any ZeroMQ port, costs no memory, and is counted."""

import contextlib
import socket
import time
from types import SimpleNamespace

import psutil
import pytest
import zmq
from small_blocks import LAYOUT
from waiting import until

from mempool.address import Medium
from mempool.feed.messages import FeedRequest
from mempool.feed.messages import encode as encode_request
from mempool.feed.server import FeedServer
from mempool.membership.client import MembershipClient
from mempool.membership.errors import JoinFailed
from mempool.membership.messages import InstanceInfo, Join
from mempool.membership.messages import encode as encode_membership
from mempool.membership.registry_server import MembershipRegistry
from mempool.security.access import ClusterAccess
from mempool.security.cluster_key import ClusterKey
from mempool.sockets import SocketLimits
from mempool.transports.registry import Transports

ACCESS, FOREIGN = ClusterAccess(ClusterKey("k" * 32)), ClusterAccess(ClusterKey("f" * 32))
INFO = InstanceInfo(
    instance="a", incarnation=1, role="x", layout=LAYOUT, namespace={},
    control="tcp://127.0.0.1:9", data="stream://127.0.0.1:9",
)  # fmt: skip


class EmptyFeed:
    def listen(self, news):
        pass

    def events_after(self, incarnation, seq):
        return []


def registry(open_things):
    server = MembershipRegistry("tcp://127.0.0.1:0", access=ACCESS)
    open_things.callback(server.close)
    return SimpleNamespace(
        endpoint=server.endpoint,
        message=encode_membership(Join(INFO, bytes(16))),
        refused=lambda: server.refused,
        heard=lambda: server.bad_frames + len(server._roll.standings()),
    )


def feed(open_things):
    server = FeedServer("tcp://127.0.0.1:0", {Medium.DRAM: EmptyFeed()}, access=ACCESS)
    open_things.callback(server.close)
    return SimpleNamespace(
        endpoint=server.endpoint,
        message=encode_request(FeedRequest(1, Medium.DRAM, 1, 0, 60.0)),
        refused=lambda: server.refused,
        heard=lambda: server.bad_frames + len(server._waiting),
    )


def control(open_things):
    transports = Transports(access=ACCESS)
    listener = transports.listen("tcp://127.0.0.1:0", SocketLimits(), 1024)
    open_things.callback(listener.close)
    messages = []

    def heard():
        while (message := listener.receive()) is not None:
            messages.append(message)
        return len(messages)

    def refused():
        heard()
        return transports.refused

    return SimpleNamespace(endpoint=listener.endpoint, message=b"hello", refused=refused, heard=heard)


PORTS = {"registry": registry, "feed": feed, "control": control}


@pytest.fixture(params=PORTS)
def port(request, open_things):
    return PORTS[request.param](open_things)


def plain(made):
    made.plain_username, made.plain_password = b"a", b"b"


def unlisted(made):
    """Knows the port's public key, which is no secret of CURVE's, and has a key pair of its own."""
    made.curve_serverkey = ACCESS._server.public
    made.curve_publickey, made.curve_secretkey = zmq.curve_keypair()


STRANGERS = {
    "without a key": lambda made: None,
    "with a password": plain,
    "of another cluster": FOREIGN.present,
    "with a key pair of its own": unlisted,
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_is_not_heard_and_is_counted(port, dealer, stranger):
    made = dealer(port.endpoint, STRANGERS[stranger])
    made.send(port.message)
    until(lambda: port.refused() > 0, "the stranger is counted")
    assert not port.heard()
    member = dealer(port.endpoint, ACCESS.present)
    member.send(port.message)
    until(port.heard, "the member is heard")
    assert port.heard() == 1


def test_multipart_without_end_from_a_stranger_costs_no_memory(port):
    """A ZMTP 3.1 peer of mechanism NULL that sends frames with the flag `more`, as fast as it can."""
    host, number = port.endpoint.removeprefix("tcp://").split(":")
    greeting = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\x00") + b"\x00" * 32
    ready = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    more = (b"\x01\xff" + b"x" * 255) * 4096
    before = psutil.Process().memory_info().rss
    sent, ends = 0, time.monotonic() + 30
    while sent < 64 << 20 and time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection((host, int(number)), 5) as raw:
            raw.settimeout(5)
            raw.sendall(greeting + ready)
            # Its greeting, and its READY where it has one for a stranger: what comes before that is an error.
            time.sleep(0.05)
            raw.recv(4096)
            while True:
                raw.sendall(more)
                sent += len(more)
        sent += 1 << 20
    assert psutil.Process().memory_info().rss - before < 32 << 20
    until(lambda: port.refused() > 0, "the stranger is counted")
    assert not port.heard()


def test_a_member_with_a_wrong_key_learns_what_to_look_at(open_things):
    server = MembershipRegistry("tcp://127.0.0.1:0", access=ACCESS)
    open_things.callback(server.close)

    def join(access):
        client = MembershipClient(
            INFO, [server.endpoint], on_change=print, on_fenced=print, on_stopped=print, access=access
        )
        try:
            client.join(3.0)
        finally:
            client.close()

    with pytest.raises(JoinFailed, match="have the same cluster key"):
        join(FOREIGN)
    with pytest.raises(JoinFailed, match="MEMSERVE_CLUSTER_KEY_FILE"):
        join(ClusterAccess())
    join(ACCESS)
    assert server.refused >= 2


def test_a_key_at_the_joining_side_alone_is_noticed_too(open_things):
    server = MembershipRegistry("tcp://127.0.0.1:0")
    open_things.callback(server.close)
    client = MembershipClient(
        INFO, [server.endpoint], on_change=print, on_fenced=print, on_stopped=print, access=ACCESS
    )
    with pytest.raises(JoinFailed, match="have the same cluster key"):
        client.join(2.0)


def test_a_control_call_with_a_wrong_key_says_so(open_things):
    listener = Transports(access=ACCESS).listen("tcp://127.0.0.1:0", SocketLimits(), 1024)
    open_things.callback(listener.close)
    connection = Transports(access=FOREIGN).connect(listener.endpoint, SocketLimits())
    open_things.callback(connection.close)
    failures = []

    def ended():
        try:
            connection.receive()
        except Exception as error:
            failures.append(str(error))
        return failures

    until(ended)
    assert "same cluster key" in failures[0]
    assert not connection.opened
