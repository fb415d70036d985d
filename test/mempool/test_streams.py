"""stream://: what arrives goes straight to its place, and what a stranger sends goes nowhere."""

import random
import socket
import struct

import msgspec
import pytest
import torch

from mempool import wire
from mempool.arena import DramArena
from mempool.errors import PeerDied, TransferError
from mempool.layout import BlockLayout
from mempool.sockets import SocketLimits

LAYOUT = BlockLayout(
    kind="mha", dtype="bfloat16", page_size=16, layers=2, heads=4,
    k_plane_bytes=1 << 14, v_plane_bytes=1 << 14,
)  # fmt: skip
SIZE, PLANES = LAYOUT.block_bytes, 4
PREFIX = struct.Struct("<II")
# In some hundreds there is a message of every kind, mangled in every way.
THROWN = 2_000


class Stranger:
    """Speaks to a listener in its own words."""

    def __init__(self, endpoint, greets=True):
        host, _, port = endpoint.removeprefix("stream://").rpartition(":")
        self.address, self.greets = (host, int(port)), greets
        self.connect()

    def connect(self):
        self.socket = socket.create_connection(self.address, 10)
        if self.greets:
            self.say(wire.ChannelHello(wire.VERSION))
            assert isinstance(self.hear(), wire.Welcome)

    def say(self, message, payload=b""):
        self.throw(wire.encode(message), payload)

    def throw(self, header, payload=b""):
        self.socket.sendall(PREFIX.pack(len(header), len(payload)) + header + payload)

    def hear(self):
        """The answer, None where the connection is closed instead."""
        while (prefix := self._exactly(PREFIX.size)) is not None:
            if header := PREFIX.unpack(prefix)[0]:
                return wire.decode_to_sender(self._exactly(header))
        return None

    def _exactly(self, count):
        found = b""
        while len(found) < count:
            try:
                part = self.socket.recv(count - len(found))
            except ConnectionError:
                return None
            if not part:
                return None
            found += part
        return found


@pytest.fixture
def arena():
    return DramArena(LAYOUT, 8)


@pytest.fixture
def channel(make_channel, arena):
    source = DramArena(LAYOUT, 8)
    source.rows.copy_(torch.randint(0, 256, source.rows.shape, dtype=torch.uint8))
    arena.rows.fill_(0)
    return make_channel(source, arena)


@pytest.fixture
def stranger(channel):
    made = []

    def make(**how):
        made.append(Stranger(channel.receiver.endpoint, **how))
        return made[-1]

    yield make
    for each in made:
        each.socket.close()


def expect(channel, tools, pages):
    outcome = tools.Outcome()
    ticket = channel.receiver.expect(channel.target, torch.tensor(pages), outcome.done, outcome.ended)
    return ticket, outcome


@pytest.mark.parametrize("encrypt", [False, True])
@pytest.mark.parametrize("pages", [[2, 3, 4], [6, 1, 3]])
def test_blocks_are_read_to_where_they_belong(make_channel, channel, arena, tools, pages, encrypt):
    def no_copy(*_):
        raise AssertionError("copied")

    arena.scatter = no_copy
    other = make_channel(channel.source, arena, encrypt=encrypt)
    transfer, there, here = other.begin(pages)
    transfer.send(torch.tensor([1, 2, 5]), 0)
    transfer.finish(3)
    assert here.wait().error is None
    assert there.wait().error is None
    assert torch.equal(arena.rows[pages], channel.source.rows[[1, 2, 5]])
    assert not arena.rows[[0, 5, 7]].any()


def test_a_withdrawn_ticket_takes_no_more_bytes_of_a_message(channel, stranger, tools, arena):
    ticket, _ = expect(channel, tools, [2])
    someone = stranger()
    header = wire.encode(wire.Blocks(ticket, 0, 0, 1, 0, PLANES))
    someone.socket.sendall(PREFIX.pack(len(header), SIZE) + header + b"x" * (SIZE // 2))
    tools.until(lambda: arena.rows[2, SIZE // 2 - 1] == ord("x"))
    channel.receiver.withdraw(ticket)
    arena.rows[2].fill_(7)
    someone.socket.sendall(b"x" * (SIZE - SIZE // 2))
    assert isinstance(someone.hear(), wire.Refuse)
    assert bool((arena.rows[2] == 7).all())
    channel.carry_one(3)


def test_a_connection_that_ends_inside_a_message_fails_its_transfer(channel, stranger, tools):
    ticket, outcome = expect(channel, tools, [2])
    someone = stranger()
    header = wire.encode(wire.Begin(ticket, 0))
    someone.throw(header)
    assert isinstance(someone.hear(), wire.Ack)
    header = wire.encode(wire.Blocks(ticket, 1, 0, 1, 0, PLANES))
    someone.socket.sendall(PREFIX.pack(len(header), SIZE) + header + b"x")
    someone.socket.close()
    assert isinstance(outcome.wait().error, PeerDied)
    channel.carry_one(3)


def test_a_transfer_belongs_to_the_connection_that_began_it(channel, stranger, tools, arena):
    ticket, outcome = expect(channel, tools, [2])
    first, second = stranger(), stranger()
    first.say(wire.Begin(ticket, 0))
    assert isinstance(first.hear(), wire.Ack)
    second.say(wire.Blocks(ticket, 0, 0, 1, 0, PLANES), b"x" * SIZE)
    assert "another connection" in second.hear().reason
    assert not arena.rows.any()
    first.say(wire.Blocks(ticket, 1, 0, 1, 0, PLANES), b"y" * SIZE)
    first.say(wire.Finish(ticket, 2, 1))
    assert isinstance(first.hear(), wire.Ack)
    assert outcome.wait().error is None


@pytest.mark.parametrize(
    ("part", "size"),
    [
        (wire.Blocks(0, 1, 0, 1, 0, PLANES - 1), SIZE),
        (wire.Blocks(0, 1, 0, 1, 1, PLANES), SIZE),
        (wire.Blocks(0, 1, 0, 2, 0, PLANES), 2 * SIZE),
        (wire.Blocks(0, 1, 1, 1, 0, PLANES), SIZE),
        (wire.Blocks(0, 1, 2**64 - 1, 1, 0, PLANES), SIZE),
        (wire.Blocks(0, 1, 0, 2**64 - 1, 0, PLANES), SIZE),
        (wire.Blocks(0, 1, 0, 1, 0, PLANES), SIZE - 1),
        (wire.Blocks(0, 1, 0, 1, 0, PLANES), 0),
        (wire.Blocks(0, 1, 0, 1, 0, PLANES), 2 * SIZE),
    ],
)
def test_blocks_that_lie_about_themselves_touch_nothing(channel, stranger, tools, arena, part, size):
    ticket, outcome = expect(channel, tools, [2])
    someone = stranger()
    someone.say(msgspec.structs.replace(part, ticket=ticket), b"x" * size)
    assert isinstance(someone.hear(), wire.Refuse)
    assert isinstance(outcome.wait().error, TransferError)
    assert not arena.rows.any()
    channel.carry_one(3)


def mangled(rng, ticket):
    """Header and payload: noise, or a message with some of its bytes changed."""
    if rng.randrange(4) == 0:
        return rng.randbytes(rng.randrange(1, 200)), rng.randbytes(rng.randrange(50))
    message = rng.choice(
        [
            wire.Blocks(ticket, 0, 0, 1, 0, PLANES),
            wire.Blocks(ticket, 0, 0, 1, 0, PLANES, 99),
            wire.Begin(ticket, 3),
            wire.Finish(ticket, 1, 1, b"cookie"),
            wire.Fail(ticket, 2, "a reason"),
            wire.Sealed(ticket, 1, 2, b"a box that nobody sealed", b"a tag"),
        ]
    )
    header = bytearray(wire.encode(message))
    for _ in range(rng.randrange(1, 4)):
        header[rng.randrange(len(header))] = rng.randrange(256)
    return bytes(header), rng.randbytes(rng.randrange(50))


@pytest.mark.parametrize("greets", [False, True])
def test_each_bad_message_is_counted_and_nobody_else_notices(channel, stranger, tools, arena, greets):
    rng = random.Random(11)
    open_one, there, here = channel.begin([5])
    open_one.send(torch.tensor([2]), 0)
    someone = stranger(greets=greets)
    for number in range(THROWN):
        header, payload = mangled(rng, rng.randrange(1, 9))
        someone.throw(header, payload)
        if not isinstance(someone.hear(), wire.Ack | wire.Refuse) and greets:
            someone.socket.close()
            someone.connect()
        if number % 500 == 0:
            channel.carry_one(6)
    counted = channel.receiver.bad_frames + channel.receiver.strays
    assert counted == THROWN
    assert channel.receiver.bad_frames > THROWN / 2
    open_one.finish(1)
    assert here.wait().error is None
    assert there.wait().error is None
    assert not arena.rows[[0, 1, 2, 3, 4, 7]].any()


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 64,
        PREFIX.pack(0, 8),
        PREFIX.pack(8, 1 << 30),
        PREFIX.pack(1 << 20, 0),
    ],
)
def test_what_is_no_message_at_all_ends_its_connection(channel, stranger, noise):
    someone = stranger(greets=False)
    someone.socket.sendall(noise)
    assert someone.hear() is None
    channel.carry_one(3)
    assert channel.receiver.bad_frames == 1


def test_whoever_is_idle_is_kept_and_whoever_stands_still_is_not(make_channel, channel, arena, tools):
    """Also where the other side would be patient for longer."""
    short = {"limits": SocketLimits(silence_s=0.5)}
    busy = make_channel(channel.source, arena, to_receiver=short)
    transfer, there, here = busy.begin([2])
    silent = Stranger(busy.receiver.endpoint)
    ticket, outcome = expect(busy, tools, [3])
    silent.say(wire.Begin(ticket, 0))
    assert isinstance(outcome.wait().error, PeerDied)
    tools.until(lambda: there.calls or len(busy.receiver._listener._by_source) == 1)
    transfer.send(torch.tensor([1]), 0)
    transfer.finish(1)
    assert here.wait().error is None
    silent.socket.close()
