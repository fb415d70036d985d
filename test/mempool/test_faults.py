"""Peers in processes of their own that are killed or stopped in the middle of a transfer."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from mempool.arena import DramArena
from mempool.errors import PeerDied
from mempool.layout import BlockLayout
from mempool.sockets import SocketLimits

PROCESS = Path(__file__).with_name("channel_process.py")
BLOCKS = 256
# Descriptors: its output, and what says how it ended.
OF_A_PROCESS = 2
# A kill is noticed long before this, without which the test would pass by silence alone.
LONG, SHORT = SocketLimits(silence_s=60.0), SocketLimits(connect_s=1.0, silence_s=1.0)


@pytest.fixture
def spawn(torch_python):
    """spawn(arguments): a process, and what it printed first."""
    processes = []

    def start(*arguments):
        command = [sys.executable, PROCESS, *arguments]
        process = torch_python.popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline().split()

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def descriptors():
    return psutil.Process().num_fds()


@pytest.fixture
def make_arena():
    layout = BlockLayout(
        kind="mha", dtype="bfloat16", page_size=16, layers=2, heads=4,
        k_plane_bytes=1 << 14, v_plane_bytes=1 << 14,
    )  # fmt: skip
    return lambda: DramArena(layout, BLOCKS, shared=True)


@pytest.fixture(params=["shm", "stream", "tcp"])
def url(request):
    return "shm://" if request.param == "shm" else f"{request.param}://127.0.0.1:0"


@pytest.mark.parametrize(("how", "limits"), [(signal.SIGKILL, LONG), (signal.SIGSTOP, SHORT)])
def test_a_receiver_that_dies_in_the_middle_fails_its_transfer_only(
    spawn, make_channel, make_arena, tools, url, how, limits
):
    source = make_arena()
    size = source.layout.block_bytes
    channel = make_channel(source, make_arena(), url=url, to_sender={"piece_bytes": size, "limits": limits})
    channel.carry_one(1)
    before = descriptors()
    process, (endpoint, ticket) = spawn("receiver", url)
    before += OF_A_PROCESS
    here = tools.Outcome()
    transfer = channel.sender.open(source, endpoint, int(ticket), here.ended)
    transfer.send(torch.arange(BLOCKS), 0)
    beside, _, beside_ended = channel.begin([2, 3])
    beside.send(torch.tensor([1]), 0)
    tools.until(lambda: channel.sender.bytes_sent > 20 * size)
    process.send_signal(how)
    assert isinstance(here.wait().error, PeerDied)
    beside.send(torch.tensor([1]), 1)
    beside.finish(2)
    assert beside_ended.wait().error is None
    channel.carry_one(4)
    assert here.calls == 1
    tools.until(lambda: endpoint not in channel.sender._peers)
    tools.until(lambda: descriptors() <= before)


@pytest.mark.parametrize(("how", "limits"), [(signal.SIGKILL, LONG), (signal.SIGSTOP, SHORT)])
def test_a_sender_that_dies_in_the_middle_fails_its_transfer_only(
    spawn, make_channel, make_arena, tools, url, how, limits
):
    channel = make_channel(make_arena(), make_arena(), url=url, to_receiver={"limits": limits})
    channel.carry_one(1)
    before = descriptors()
    there = tools.Outcome()
    ticket = channel.receiver.expect(channel.target, torch.arange(BLOCKS), there.done, there.ended)
    process, _ = spawn("sender", channel.receiver.endpoint, str(ticket))
    before += OF_A_PROCESS
    beside, _, beside_ended = channel.begin([2, 3])
    beside.send(torch.tensor([1]), 0)
    process.send_signal(how)
    assert isinstance(there.wait().error, PeerDied)
    beside.send(torch.tensor([1]), 1)
    beside.finish(2)
    assert beside_ended.wait().error is None
    channel.carry_one(4)
    assert there.calls == 1
    assert channel.receiver.expected == 0
    assert channel.sender.bad_frames == channel.receiver.bad_frames == 0
    tools.until(lambda: descriptors() <= before)


def test_peers_that_come_and_go_leave_nothing_behind(make_channel, make_paged, tools, url):
    channel = make_channel(make_paged(8, seed=1), make_paged(8), url=url)
    channel.carry_one(1)
    before = descriptors()
    for _ in range(20):
        other = make_channel(channel.source, channel.target, url=url)
        other.carry_one(2, receiver=channel.receiver)
        channel.carry_one(3, receiver=other.receiver)
        other.close()
        other.close = lambda: None
    tools.until(lambda: descriptors() <= before)
    listener = channel.receiver._listener
    kept = (
        (listener._by_source, listener._by_number)
        if url.startswith(("shm", "stream"))
        else (listener._known, listener._sources)
    )
    tools.until(lambda: {len(each) for each in (channel.sender._peers, *kept)} == {1})
    assert len(channel.receiver._welcomed) == 1
    assert channel.receiver.expected == 0
