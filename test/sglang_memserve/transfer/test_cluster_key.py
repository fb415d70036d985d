"""Prefill and decode with the cluster's key: they hear each other, and nobody else."""

import pytest
import zmq
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common import conn

from mempool.security.access import ClusterAccess
from mempool.security.cluster_key import ClusterKey
from sglang_memserve.transfer.connection_watch import ConnectionWatch

ACCESS, FOREIGN = ClusterAccess(ClusterKey("k" * 32)), ClusterAccess(ClusterKey("f" * 32))
ROOM = 7


@pytest.fixture
def split(make_split, monkeypatch):
    """What SGLang's receivers connect with is the class's: of this test alone."""
    context = zmq.Context()
    monkeypatch.setattr(conn.CommonKVReceiver, "_ctx", context)
    yield make_split(access=ACCESS)
    conn.CommonKVReceiver.close_all_sockets()
    context.destroy(linger=0)


def test_a_room_is_handed_over_between_members(split, tools):
    sender = split.sender(ROOM)
    receiver = split.ask(ROOM, [20, 21])
    tools.until(lambda: sender.poll() == KVPoll.WaitingForInput)
    split.send(sender, [1, 2], aux_index=5, total=2)
    tools.until(lambda: receiver.poll() == KVPoll.Success)
    assert split.p.counters()["refused_control_connections"] == 0


@pytest.mark.parametrize("access", [ClusterAccess(), FOREIGN], ids=["no key", "a foreign key"])
def test_a_stranger_announces_no_room_and_is_counted(split, tools, access):
    destination = split.d.decode.destination(ROOM, [20], None, 0, 1, False)
    with split.context.socket(zmq.PUSH) as stranger:
        access.present(stranger)
        stranger.linger = 0
        stranger.connect(f"tcp://127.0.0.1:{split.p.rank_port}")
        stranger.send_multipart(destination)
        stranger.send(b"no message")
        tools.until(lambda: split.p.counters()["refused_control_connections"] > 0)
    assert split.p.counters()["open_rooms"] == split.p.counters()["bad_frames"] == 0
    assert split.p.prefill.rooms.unclaimed == 0
    split.d.decode.withdraw(ROOM)


def test_decode_says_why_prefill_does_not_hear_it(split, tools, caplog):
    lost = []
    watch = ConnectionWatch(lost.append, FOREIGN)
    socket = split.context.socket(zmq.PUSH)
    FOREIGN.present(socket)
    socket.linger = 0
    watch.watch("10.0.0.1:8998", socket)
    socket.connect(f"tcp://127.0.0.1:{split.p.rank_port}")
    tools.until(lambda: lost == ["10.0.0.1:8998"])
    assert (
        "10.0.0.1:8998 was closed before it could be used: do both sides have the same cluster key"
        in caplog.text
    )
    socket.close()
    watch.close()
