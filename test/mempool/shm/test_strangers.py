"""shm://: forged messages, descriptors of other kinds, and processes of other users."""

import os
import socket
import subprocess
import sys
import tempfile

import pytest
import torch

from mempool import wire
from mempool.errors import PeerDied
from mempool.shared_memory import SharedRegion
from mempool.sockets import SocketLimits
from mempool.transports.registry import Transports
from mempool.wire import MAX_PIECE_BYTES

SIZE, PLANES, NOBODY = 1 << 16, 4, 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@pytest.fixture
def region():
    made = SharedRegion(SIZE)
    made.bytes[:] = 9
    return made


def blocks(channel, tools, page=2):
    outcome = tools.Outcome()
    ticket = channel.receiver.expect(channel.target, torch.tensor([page]), outcome.done, outcome.ended)
    return wire.Blocks(ticket, 0, 0, 1, 0, PLANES), outcome


def test_a_stranger_that_keeps_to_the_rules_is_served(channel, stranger, tools, region, spans):
    someone, (message, _) = stranger(), blocks(channel, tools)
    someone.pass_region([region.fd], SIZE)
    someone.say(message, spans((0, SIZE // 2, SIZE // 2), (0, SIZE // 2, 0)))
    assert isinstance(someone.hear(), wire.Ack)
    assert bool((channel.target.rows[2] == 9).all())


@pytest.mark.parametrize(
    "forged",
    [
        [(0, SIZE, 1)],
        [(0, SIZE, 1 << 63)],
        [(0, SIZE, 2**64 - SIZE)],
        [(0, SIZE, SIZE)],
        [(0, 2**32 - 1, 0)],
        [(0, 0, 0), (0, SIZE, 0)],
        [(1, SIZE, 0)],
        [(2**32 - 1, SIZE, 0)],
        [(0, SIZE, 0)] * (MAX_PIECE_BYTES // SIZE + 1),
        [(0, 16, 0)] * 1025,
    ],
    ids=lambda forged: f"{len(forged)} of {forged[0]}",
)
def test_spans_outside_of_a_region_cost_the_connection(channel, stranger, tools, region, spans, forged):
    someone, (message, _) = stranger(), blocks(channel, tools)
    someone.pass_region([region.fd], SIZE)
    someone.say(message, spans(*forged))
    assert someone.hear() is None
    tools.until(lambda: channel.receiver.bad_frames == 1)
    assert not channel.target.rows.any()
    channel.carry_one(3)


def test_half_a_span_costs_the_connection(channel, stranger, tools, region, spans):
    someone, (message, _) = stranger(), blocks(channel, tools)
    someone.pass_region([region.fd], SIZE)
    someone.say(message, spans((0, SIZE, 0))[:-1])
    assert someone.hear() is None
    tools.until(lambda: channel.receiver.bad_frames == 1)
    channel.carry_one(3)


def test_spans_that_do_not_fit_the_blocks_are_refused(channel, stranger, tools, region, spans):
    someone, (message, outcome) = stranger(), blocks(channel, tools)
    someone.pass_region([region.fd], SIZE)
    someone.say(message, spans((0, SIZE - 1, 0)))
    assert isinstance(someone.hear(), wire.Refuse)
    assert outcome.wait().error is not None
    assert not channel.target.rows.any()


def unsealed():
    made = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(made, SIZE)
    return made


def truncatable():
    made = os.memfd_create("x")
    os.ftruncate(made, SIZE)
    return made


def file():
    with tempfile.TemporaryFile() as made:
        made.truncate(SIZE)
        return os.dup(made.fileno())


@pytest.mark.parametrize(
    "other",
    [
        unsealed,
        truncatable,
        file,
        lambda: os.open("/dev/zero", os.O_RDWR),
        lambda: socket.socket(socket.AF_UNIX).detach(),
        lambda: os.open("/", os.O_RDONLY),
    ],
    ids=["unsealed", "truncatable", "file", "device", "socket", "folder"],
)
def test_only_sealed_memory_is_mapped(channel, stranger, tools, what_is_held, other):
    channel.carry_one(3)
    someone, descriptor = stranger(), other()
    tools.until(lambda: len(channel.receiver._listener._by_source) == 2)
    before = what_is_held()
    someone.pass_region([descriptor], SIZE)
    tools.until(lambda: channel.receiver.bad_frames == 1, timeout_s=5)
    assert someone.hear() is None
    tools.until(lambda: len(channel.receiver._listener._by_source) == 1)
    before["socket"] -= 1
    assert what_is_held() <= before
    os.close(descriptor)
    channel.carry_one(3)


@pytest.mark.parametrize(
    "passed",
    [
        lambda someone, fd: someone.pass_region([fd], SIZE + 1),
        lambda someone, fd: someone.pass_region([fd], 0),
        lambda someone, fd: someone.pass_region([fd], 2**64 - 1),
        lambda someone, fd: someone.pass_region([fd], SIZE, number=8),
        lambda someone, fd: someone.pass_region([fd, fd], SIZE),
        lambda someone, fd: someone.pass_region([fd] * 200, SIZE),
        lambda someone, fd: someone.pass_region([], SIZE),
        lambda someone, fd: [someone.pass_region([fd], SIZE) for _ in range(2)],
    ],
    ids=["longer", "empty", "huge", "number", "two", "many", "none", "again"],
)
def test_a_region_that_is_not_as_announced_costs_the_connection(
    channel, stranger, tools, region, what_is_held, passed
):
    channel.carry_one(3)
    before = what_is_held()
    someone = stranger()
    passed(someone, region.fd)
    tools.until(lambda: channel.receiver.bad_frames == 1, timeout_s=5)
    assert someone.hear() is None
    someone.socket.close()
    tools.until(lambda: what_is_held() <= before)
    channel.carry_one(3)


def test_a_descriptor_that_no_region_claims_is_closed(channel, stranger, tools, region, what_is_held):
    before = what_is_held()
    someone = stranger()
    socket.send_fds(someone.socket, [b"\x01"], [region.fd])
    someone.socket.close()
    tools.until(lambda: what_is_held() <= before)


_CONNECT = """
import os, socket, sys
os.setuid(%d)
stranger = socket.socket(socket.AF_UNIX)
stranger.settimeout(20)
stranger.connect("\\0memserve/" + sys.argv[1])
print(len(stranger.recv(100)))
"""
_LISTEN = """
import os, socket, sys
os.setuid(%d)
rogue = socket.socket(socket.AF_UNIX)
rogue.settimeout(20)
rogue.bind("\\0memserve/" + sys.argv[1])
rogue.listen()
print("listens", flush=True)
caller = rogue.accept()[0]
caller.settimeout(20)
print([len(part) for part in socket.recv_fds(caller, 100, 10)[:2]])
"""


def of_another_user(code, name):
    command = [sys.executable, "-S", "-c", code % NOBODY, name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@needs_root
def test_another_user_is_not_heard(channel, tools):
    with of_another_user(_CONNECT, channel.receiver.endpoint.rpartition("/")[2]) as child:
        assert child.stdout.read() == "0\n"
    assert channel.receiver._listener.refused == 1
    channel.carry_one(3)


@needs_root
def test_another_user_gets_no_word_and_no_memory(channel, tools):
    name = "5" * 32
    endpoint = channel.receiver.endpoint.rpartition("/")[0] + "/" + name
    with of_another_user(_LISTEN, name) as child:
        assert child.stdout.readline() == "listens\n"
        here = tools.Outcome()
        transfer = channel.sender.open(channel.source, endpoint, 1, here.ended)
        transfer.send(torch.tensor([1]), 0)
        assert isinstance(here.wait().error, PeerDied)
        assert child.stdout.read() == "[0, 0]\n"
    assert "another user" in str(here.error)
    channel.carry_one(3)


def test_an_endpoint_of_another_host_is_not_connected_to():
    fabrics = Transports()
    listener = fabrics.listen("shm://", SocketLimits(), 1000)
    machine, _, name = listener.endpoint.removeprefix("shm://").partition("/")
    assert fabrics.reaches(listener.endpoint)
    for other in (
        f"shm://{'0' * 32}/{name}",
        f"shm://{machine}",
        f"shm://{machine}/../x",
        "shm://",
        "tcp://x:1",
    ):
        assert not fabrics.reaches(other)
    listener.close()
