"""Prefill under destinations that no decode instance of the cluster has named."""

import numpy as np
import pytest
import zmq
from sglang.srt.disaggregation.base.conn import KVPoll

from mempool.wire import encode
from sglang_memserve.transfer import control

ROOM = 7_000_000
TICKET = 9


@pytest.fixture
def stranger(open_sockets):
    """stranger(split): a socket of a host of its own."""

    def make(split, host="127.0.0.2"):
        pushed = open_sockets.socket(zmq.PUSH)
        pushed.connect(f"tcp://{host}:0;127.0.0.1:{split.p.rank_port}")
        return pushed

    return make


@pytest.fixture
def open_sockets():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def destination(split, room, endpoint="stream://127.0.0.1:9", required=1):
    message = control.Destination(
        room=room,
        endpoint=endpoint,
        layout=split.source.layout,
        ticket=TICKET,
        decode_prefix_len=0,
        required_destinations=required,
        is_dummy=False,
    )
    return control.frames(message)


def carry(split, tools, room, page):
    receiver = split.ask(room, [page])
    tools.until(lambda: split.p.prefill.rooms.get(room))
    sender = split.sender(room)
    split.send(sender, [1], aux_index=0, total=1)
    for end in (receiver, sender):
        tools.until(lambda end=end: end.poll() == KVPoll.Success)
        end.clear()


@pytest.mark.parametrize(
    "endpoint",
    ["stream://a..b:1", f"stream://{'a' * 64}:1", "stream://127.0.0.1:0", "stream://127.0.0.1:65536",
     "tcp://127.0.0.1:9", "ipc:///tmp/x", "inproc://x", "stream://[::g]:1", "stream://a:" + "9" * 200, "stream://"],
)  # fmt: skip
def test_a_destination_that_is_nowhere_is_a_bad_frame(split, tools, stranger, endpoint):
    pushed = stranger(split)
    pushed.send_multipart(destination(split, ROOM, endpoint))
    tools.until(lambda: split.p.counters()["bad_frames"] == 1)
    carry(split, tools, 1, 9)
    assert split.p.prefill.rooms.get(ROOM) is None


def test_invented_rooms_take_the_place_of_each_other_alone(make_split, tools, stranger):
    split = make_split(how=lambda source: {"max_unclaimed": 20})
    waiting = split.ask(1, [9])
    tools.until(lambda: split.p.prefill.rooms.get(1))
    pushed = stranger(split)
    for room in range(ROOM, ROOM + 500):
        pushed.send_multipart(destination(split, room))
    tools.until(lambda: split.p.prefill.rooms.get(ROOM + 499))
    assert split.p.prefill.rooms.unclaimed == 20
    carry(split, tools, 2, 10)
    sender = split.sender(1)
    split.send(sender, [1], aux_index=0, total=1)
    for end in (waiting, sender):
        tools.until(lambda end=end: end.poll() == KVPoll.Success)
        end.clear()


def test_one_room_of_many_destinations_counts_them_all(make_split, tools, stranger):
    split = make_split(how=lambda source: {"max_unclaimed": 20})
    pushed = stranger(split)
    for n in range(500):
        pushed.send_multipart(destination(split, ROOM, f"stream://127.0.0.1:{n + 1}", required=1000))
    pushed.send_multipart(destination(split, ROOM + 1))
    tools.until(lambda: split.p.prefill.rooms.get(ROOM + 1))
    assert split.p.prefill.rooms.unclaimed <= 20
    carry(split, tools, 1, 9)


@pytest.mark.parametrize("required", [0, control.MAX_DESTINATIONS + 1, 2**63])
def test_no_room_waits_for_destinations_beyond_reason(split, tools, stranger, required):
    stranger(split).send_multipart(destination(split, ROOM, required=required))
    tools.until(lambda: split.p.counters()["bad_frames"] == 1)


@pytest.mark.parametrize(
    "frames",
    [
        [b"ABORT", b"9" * 5000],
        [b"ABORT"] + [b"1"] * 1000,
        [b"ABORT", b"1", b"\xff" * 10_000],
        [b""],
        [b"", b""],
    ],
)
def test_an_abort_of_no_reasonable_size_is_a_bad_frame(split, tools, stranger, frames):
    stranger(split).send_multipart(frames)
    tools.until(lambda: split.p.counters()["bad_frames"] == 1)
    carry(split, tools, 1, 9)


def test_a_message_too_large_ends_its_connection(split, tools, stranger):
    pushed = stranger(split)
    pushed.send_multipart([control.TAG, encode(np.zeros(100_000).tobytes())])
    carry(split, tools, 1, 9)
    assert split.p.counters()["bad_frames"] <= 1
