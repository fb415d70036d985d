"""Nothing that a stranger sends crashes an end, touches a block, or disturbs anybody else."""

import random

import msgspec
import pytest
import torch
import zmq

from mempool import wire
from mempool.errors import TransferError
from mempool.sockets import SocketLimits
from mempool.transports.registry import Transports

# In some hundreds there is a message of every kind, mangled in every way.
THROWN = 2_000
A_CONNECTION = 10
ZEROMQ = "tcp://127.0.0.1:0"


def valid_messages(ticket, size):
    return [
        [wire.encode(wire.Blocks(ticket, 0, 0, 1, 0, 8)), b"x" * size],
        [wire.encode(wire.Blocks(ticket, 0, 0, 1, 0, 8, 99)), b"x" * size],
        [wire.encode(wire.Begin(ticket, 3))],
        [wire.encode(wire.Finish(ticket, 1, 1, b"cookie"))],
        [wire.encode(wire.Fail(ticket, 2, "a reason"))],
        [wire.encode(wire.Sealed(ticket, 1, 2, b"a box that nobody sealed", b"a tag"))],
    ]


def mangled(rng, message):
    """A message with some bits, bytes or frames changed, or nothing but noise."""
    frames = [bytearray(frame) for frame in message]
    kind = rng.randrange(6)
    if kind == 0:
        return [rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 5))]
    if kind == 1:
        frames.insert(rng.randrange(len(frames) + 1), bytearray(rng.randbytes(rng.randrange(20))))
    elif kind == 2:
        del frames[0][rng.randrange(len(frames[0])) :]
    elif kind == 3:
        frames[0] += rng.randbytes(rng.randrange(1, 9))
    for _ in range(rng.randrange(1, 4)):
        if frames[0]:
            frames[0][rng.randrange(len(frames[0]))] = rng.randrange(256)
    return [bytes(frame) for frame in frames]


def stranger(endpoint, greets):
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 5000)
    socket.setsockopt(zmq.SNDTIMEO, 20_000)
    socket.connect(endpoint)
    if greets:
        socket.send(wire.encode(wire.ChannelHello(wire.VERSION)))
        socket.recv()
    return socket


def is_hello(frames):
    try:
        return len(frames) == 1 and isinstance(wire.decode_to_receiver(frames[0]), wire.ChannelHello)
    except Exception:
        return False


@pytest.mark.parametrize("greets", [False, True])
def test_a_receiver_counts_each_bad_frame_and_goes_on(make_paged, make_channel, tools, greets):
    """A connection that greeted is thrown off by its first bad frame; where it greets anew, by the next."""
    rng = random.Random(7)
    source, target = make_paged(8, seed=1, layers=1), make_paged(8, layers=1)
    channel = make_channel(source, target, url=ZEROMQ)
    open_one, there, here = channel.begin([5])
    open_one.send(torch.tensor([2]), 0)
    socket, thrown = stranger(channel.receiver.endpoint, greets), 0
    while thrown < THROWN:
        message = mangled(rng, rng.choice(valid_messages(rng.randrange(1, 9), 64)))
        if is_hello(message):
            continue
        if greets and thrown % 10 == 0:
            socket.send(wire.encode(wire.ChannelHello(wire.VERSION)))
        socket.send_multipart(message)
        thrown += 1
        if thrown % 500 == 0:
            channel.carry_one(6)
        while socket.poll(0):
            socket.recv_multipart()
    counted = lambda: channel.receiver.bad_frames + channel.receiver.strays  # noqa: E731
    tools.until(lambda: counted() == THROWN)
    assert channel.receiver.bad_frames > THROWN / 2
    assert (channel.receiver.strays > 0) == greets
    open_one.finish(1)
    assert here.wait().error is None
    assert there.wait().error is None
    assert not tools.blocks_of(target, [0, 1, 2, 3, 4, 7]).any()
    socket.close()


@pytest.mark.parametrize(
    "part",
    [
        wire.Blocks(0, 1, 0, 1, 0, 7),
        wire.Blocks(0, 1, 0, 1, 1, 8),
        wire.Blocks(0, 1, 0, 2, 0, 8),
        wire.Blocks(0, 1, 1, 1, 0, 8),
        wire.Blocks(0, 1, 2**64 - 1, 1, 0, 8),
        wire.Blocks(0, 1, 0, 2**64 - 1, 0, 8),
    ],
)
def test_blocks_with_wrong_headers_fail_their_transfer_alone(make_paged, make_channel, tools, part):
    channel = make_channel(make_paged(4), make_paged(4), url=ZEROMQ)
    failed = tools.Outcome()
    ticket = channel.receiver.expect(channel.target, torch.tensor([2]), failed.done, failed.ended)
    socket = stranger(channel.receiver.endpoint, True)
    whole = b"x" * channel.source.layout.block_bytes
    socket.send_multipart([wire.encode(msgspec.structs.replace(part, ticket=ticket)), whole])
    assert isinstance(wire.decode_to_sender(socket.recv()), wire.Refuse)
    assert isinstance(failed.wait().error, TransferError)
    assert not tools.blocks_of(channel.target, [0, 1, 2, 3]).any()
    socket.close()


@pytest.mark.parametrize("frames", [[], [b""], [b"x" * 5], [b"x" * 10, b""]])
def test_a_payload_in_frames_of_no_whole_rows_touches_nothing(make_paged, make_channel, tools, frames):
    channel = make_channel(make_paged(4), make_paged(4), url=ZEROMQ)
    failed = tools.Outcome()
    ticket = channel.receiver.expect(channel.target, torch.tensor([2]), failed.done, failed.ended)
    socket = stranger(channel.receiver.endpoint, True)
    size = channel.source.layout.block_bytes
    rest = [b"x" * (size - sum(map(len, frames)))] if frames else []
    socket.send_multipart([wire.encode(wire.Blocks(ticket, 0, 0, 1, 0, 8)), *frames, *rest])
    assert isinstance(failed.wait().error, TransferError)
    assert not tools.blocks_of(channel.target, [0, 1, 2, 3]).any()
    socket.close()


def test_too_many_frames_of_one_message_are_a_bad_frame(make_paged, make_channel, tools):
    channel = make_channel(make_paged(4), make_paged(4), url=ZEROMQ)
    socket = stranger(channel.receiver.endpoint, True)
    socket.send_multipart([wire.encode(wire.Blocks(1, 0, 0, 1, 0, 8))] + [b"x"] * 2000)
    assert isinstance(wire.decode_to_sender(socket.recv()), wire.Bye)
    assert channel.receiver.bad_frames == 1
    socket.close()


def test_a_sender_gives_up_a_receiver_at_each_bad_frame_and_goes_on(make_paged, make_channel, tools):
    """At some connection ten frames at once; the first that is bad ends it."""
    rng = random.Random(8)
    transports = Transports()
    shared = {"transports": transports}
    channel = make_channel(
        make_paged(8, seed=1), make_paged(8), url="inproc://good", to_sender=shared, to_receiver=shared
    )
    valid = [
        [wire.encode(message)]
        for message in (
            wire.Welcome(1, 1 << 20), wire.Ack(1, 0), wire.Refuse(1, 0, "a reason"), wire.Bye("a reason"),
        )
    ]  # fmt: skip
    listeners = [
        transports.listen(f"inproc://bad{n}", SocketLimits(), wire.MAX_PIECE_BYTES) for n in range(20)
    ]
    ended, thrown_at, thrown = [], set(), 0
    while thrown < THROWN:
        for bad in listeners:
            channel.sender.open(channel.source, bad.endpoint, 1, ended.append)
        for bad in listeners:
            for source in set(bad.connections) - {source for other, source in thrown_at if other is bad}:
                thrown_at.add((bad, source))
                for _ in range(A_CONNECTION):
                    bad.send(source, mangled(rng, rng.choice(valid))[0])
                thrown += A_CONNECTION
            while bad.receive() is not None:
                pass
        if len(thrown_at) % 40 == 0:
            channel.carry_one(3)
    for bad in listeners:
        bad.close()
    channel.carry_one(3)
    assert all(isinstance(error, TransferError) for error in ended)
    assert channel.sender.bad_frames > len(thrown_at) / 2
