"""Encrypted blocks against whoever is on their way, or reaches the block channel."""

import contextlib
import queue
import socket
import struct

import msgspec
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_blocks import DRAM, LAYOUT, PAGE
from stream_relay import PREFIX, StreamRelay
from waiting import until

from mempool import wire
from mempool.arena import DramArena
from mempool.config import MemPoolConfig
from mempool.encryption import Encryption
from mempool.errors import PeerDied, Refused, TransferError
from mempool.layout import BlockLayout
from mempool.pool import MemPool
from mempool.tiers.tier import dram_arena
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sealing import MessageSealer
from mempool.transfer.sender import BlockSender

# Sent from where they are stored, and read to where they belong.
LARGE = BlockLayout(
    kind="mha", dtype="uint8", page_size=2, layers=1, heads=1, k_plane_bytes=1 << 15, v_plane_bytes=1 << 15
)
COOKIE = b"a cookie that nobody is to read"
# Those of a transfer: hello, begin, blocks, blocks, finish.
HELLO, BEGIN, FIRST, SECOND, FINISH = range(5)


def random_arena():
    arena = DramArena(LARGE, 4)
    arena.rows.random_(0, 256, generator=torch.Generator().manual_seed(1))
    return arena


class Ends:
    """An encrypting receiver, a sender to it, and somebody between them."""

    def __init__(self, stack):
        self.stack = stack
        self.source = random_arena()
        self.receiver = BlockReceiver("stream://127.0.0.1:0", encrypt=True)
        stack.callback(self.receiver.close)
        self.relay = self.relayed()

    def relayed(self):
        relay = StreamRelay(self.receiver.endpoint)
        self.stack.callback(relay.close)
        return relay

    def expect(self):
        """Ticket, key, arena, and where the outcome goes: a cookie, or an error."""
        target, came = DramArena(LARGE, 4), queue.SimpleQueue()
        target.rows.fill_(0)
        key = self.receiver.new_key()
        ticket = self.receiver.expect(target, torch.tensor([1, 3]), came.put, came.put, key=key)
        return ticket, key, target, came

    def send(self, ticket, key, relay=None):
        """Two messages of blocks; where the outcome goes."""
        sender, ended = BlockSender(piece_bytes=LARGE.block_bytes), queue.SimpleQueue()
        self.stack.callback(sender.close)
        endpoint = (relay or self.relay).endpoint
        transfer = sender.open(self.source, endpoint, ticket, ended.put, key=key)
        transfer.send(torch.tensor([0, 2]), 0)
        transfer.finish(2, COOKIE)
        return ended

    def carry(self, relay=None):
        """A transfer that nobody disturbs."""
        ticket, key, target, came = self.expect()
        ended = self.send(ticket, key, relay)
        assert came.get(timeout=20) == COOKIE
        assert ended.get(timeout=20) is None
        assert torch.equal(target.rows[[1, 3]], self.source.rows[[0, 2]])

    def stranger(self):
        port = int(self.receiver.endpoint.rpartition(":")[2])
        stranger = self.stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        stranger.sendall(prefixed(wire.ChannelHello(wire.VERSION)))
        assert isinstance(heard(stranger), wire.Welcome)
        return stranger


def prefixed(message, payload=b""):
    header = wire.encode(message)
    return PREFIX.pack(len(header), len(payload)) + header + payload


def heard(stranger):
    while True:
        header, _ = PREFIX.unpack(stranger.recv(PREFIX.size, socket.MSG_WAITALL))
        if header:
            return wire.decode_to_sender(stranger.recv(header, socket.MSG_WAITALL))


@pytest.fixture
def ends(open_things):
    return Ends(open_things)


def fails(ends, ticket, key, came):
    """A transfer that is disturbed: both sides hear of it, and nothing is handed over."""
    there_before = ends.receiver.bad_frames
    ended = ends.send(ticket, key)
    error = ended.get(timeout=20)
    assert isinstance(error, TransferError)
    there = came.get(timeout=20)
    assert isinstance(there, TransferError)
    assert ends.receiver.expected == 0
    return error, there, ends.receiver.bad_frames - there_before


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def sealed_at(message):
    """Where in a header the encrypted bytes and the tag of the payload are."""
    sealed = wire.decode_to_receiver(message.header)
    start = message.header.index(sealed.box)
    yield from range(start, start + len(sealed.box))
    if sealed.payload_tag:
        start = message.header.index(sealed.payload_tag)
        yield from range(start, start + len(sealed.payload_tag))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.sampled_from([BEGIN, FIRST, SECOND, FINISH]),
    in_payload=st.booleans(),
    at=st.integers(0, 10**9),
)
def test_a_bit_that_flips_on_the_way_costs_the_connection(number, in_payload, at):
    def change(count, message):
        if count != number:
            return [message]
        if in_payload and message.payload:
            return [message._replace(payload=flipped(message.payload, at % (8 * len(message.payload))))]
        places = list(sealed_at(message))
        bit = 8 * places[at // 8 % len(places)] + at % 8
        return [message._replace(header=flipped(message.header, bit))]

    with contextlib.ExitStack() as stack:
        ends = Ends(stack)
        ends.relay.change = change
        ticket, key, _, came = ends.expect()
        error, there, bad = fails(ends, ticket, key, came)
        assert "key" in str(error) or isinstance(error, PeerDied)
        assert "key" in str(there)
        assert bad >= 1
        ends.carry(ends.relayed())


@pytest.mark.parametrize("number", [BEGIN, FIRST, SECOND, FINISH])
def test_an_answer_that_is_changed_on_the_way_ends_the_transfer(ends, number):
    def change(count, message):
        return [message._replace(header=flipped(message.header, 8 * len(message.header) - 1))]

    ends.relay.change_answer = lambda count, message: change(count, message) if count == number else [message]
    ticket, key, _, _ = ends.expect()
    assert "bad frame" in str(ends.send(ticket, key).get(timeout=20))


def test_a_forged_answer_says_nothing_to_the_sender(ends):
    """That all is there, when it is not: a source that moves would be freed."""

    def change(number, message):
        sealed = wire.decode_to_sender(message.header)
        if not isinstance(sealed, wire.Sealed):
            return [message]
        return [message._replace(header=wire.encode(wire.Ack(sealed.ticket, sealed.seq)))]

    ends.relay.change_answer = change
    ticket, key, _, _ = ends.expect()
    assert "in clear" in str(ends.send(ticket, key).get(timeout=20))


@pytest.mark.parametrize(
    "order",
    [[FIRST, FIRST], [SECOND, FIRST], [FINISH, FIRST], [BEGIN, FIRST], [SECOND]],
    ids=["repeated", "swapped", "finished too early", "begun twice", "left out"],
)
def test_messages_in_another_order_cost_the_connection(ends, order):
    kept = {}

    def change(number, message):
        kept[number] = message
        if number in (HELLO, BEGIN):
            return [message]
        if number < FINISH:
            return []
        return [kept[each] for each in (*order, FINISH)]

    ends.relay.change = change
    ticket, key, _, came = ends.expect()
    _, there, bad = fails(ends, ticket, key, came)
    assert "was due" in str(there)
    assert bad >= 1


def test_a_transfer_that_is_cut_off_hands_nothing_over(ends):
    def change(number, message):
        if number == SECOND:
            raise EOFError
        return [message]

    ends.relay.change = change
    ticket, key, _, came = ends.expect()
    fails(ends, ticket, key, came)


def test_a_payload_with_a_shorter_one_in_its_place_hands_nothing_over(ends):
    ends.relay.change = lambda number, message: [
        message._replace(payload=message.payload[:-1]) if number == FIRST else message
    ]
    ticket, key, _, came = ends.expect()
    fails(ends, ticket, key, came)


@pytest.mark.parametrize("when", ["under way", "afterwards"])
def test_a_recorded_transfer_is_not_taken_again(ends, when):
    ticket, key, target, came = ends.expect()
    replayed = []

    def change(number, message):
        if number == FINISH and when == "under way":
            replayed.append(replay(ends))
        return [message]

    ends.relay.change = change
    assert ends.send(ticket, key).get(timeout=20) is None
    assert came.get(timeout=20) == COOKIE
    if when == "afterwards":
        target.rows.fill_(0)
        replayed.append(replay(ends))
        assert not target.rows.any()
    # The transfer that they copy is known: a message of it that comes again ends who brings it.
    kinds = [wire.Bye] if when == "under way" else [wire.Refuse] * 4
    assert [type(answer) for answer in replayed[0]][: len(kinds)] == kinds
    assert came.empty()


def replay(ends):
    """What passed, over a connection of the stranger's; the answers."""
    stranger = ends.stranger()
    answers = []
    for message in ends.relay.sent[BEGIN : FINISH + 1]:
        stranger.sendall(message.raw)
        answers.append(heard(stranger))
        if isinstance(answers[-1], wire.Bye):
            break
    return answers


def test_the_key_of_another_ticket_opens_nothing(ends):
    first, _, target, came = ends.expect()
    _, other_key, _, _ = ends.expect()
    error = ends.send(first, other_key).get(timeout=20)
    assert "key" in str(error)
    assert not target.rows.any()
    assert ends.receiver.bad_frames >= 1
    # The ticket is still whose it was.
    assert came.empty()
    assert ends.receiver.expected == 2


def test_what_comes_in_clear_is_refused_by_name_and_ends_nothing(ends):
    ticket, key, target, came = ends.expect()
    stranger = ends.stranger()
    planes = len(LARGE.plane_bytes)
    messages = [
        prefixed(wire.Begin(ticket, 0)),
        prefixed(wire.Blocks(ticket, 1, 0, 2, 0, planes), b"x" * 2 * LARGE.block_bytes),
        prefixed(wire.Finish(ticket, 2, 2, b"forged")),
        prefixed(wire.Fail(ticket, 3, "forged")),
    ]
    answers = []
    for message in messages:
        stranger.sendall(message)
        answers.append(heard(stranger))
    assert all("encryption is on at the receiver" in answers[number].reason for number in (1, 2))
    assert not target.rows.any()
    assert came.empty()
    assert ends.send(ticket, key).get(timeout=20) is None
    assert came.get(timeout=20) == COOKIE


def test_a_sender_without_the_key_hears_what_is_wrong(ends):
    ticket, _, _, _ = ends.expect()
    error = ends.send(ticket, None).get(timeout=20)
    assert isinstance(error, Refused)
    assert "encryption is on at the receiver" in str(error)


def test_a_transfer_goes_on_over_no_other_connection(ends):
    """A message that its sender has sent, brought by somebody else in its place."""
    kept = []

    def change(number, message):
        if number == FIRST:
            stranger = ends.stranger()
            stranger.sendall(message.raw)
            kept.append(heard(stranger))
        return [message]

    ends.relay.change = change
    ticket, key, _, came = ends.expect()
    assert ends.send(ticket, key).get(timeout=20) is None
    assert came.get(timeout=20) == COOKIE
    assert [type(answer) for answer in kept] == [wire.Bye]


def test_a_holder_of_the_key_cannot_write_beyond_its_pages(ends):
    ticket, key, target, came = ends.expect()
    stranger, sealer = ends.stranger(), MessageSealer(key)
    size = LARGE.block_bytes
    part = wire.Blocks(ticket, 0, 2, 1, 0, len(LARGE.plane_bytes))
    payload = bytearray(size)
    sealed = sealer.seal(part, [b"x" * size], memoryview(payload))
    stranger.sendall(prefixed(sealed, bytes(payload)))
    answer = sealer.open_answer(heard(stranger))
    assert isinstance(answer, wire.Refuse)
    assert isinstance(came.get(timeout=20), TransferError)
    assert not target.rows.any()


@pytest.mark.parametrize("noise", ["no box", "a forged box", "a box of a hello", "payload with no blocks"])
def test_boxes_with_something_else_in_them_are_bad_frames(ends, noise):
    ticket, key, _, came = ends.expect()
    stranger, sealer = ends.stranger(), MessageSealer(key)
    begun = sealer.seal(wire.Begin(ticket, 0))
    if noise == "payload with no blocks":
        stranger.sendall(prefixed(begun, b"x" * 100))
    elif noise == "a box of a hello":
        hello = msgspec.structs.replace(begun, box=box_of(key, ticket, wire.ChannelHello(4)))
        stranger.sendall(prefixed(hello))
    else:
        stranger.sendall(
            prefixed(msgspec.structs.replace(begun, box=b"" if noise == "no box" else b"x" * 16))
        )
    assert isinstance(heard(stranger), wire.Bye)
    until(lambda: ends.receiver.bad_frames == 1)
    ends.receiver.withdraw(ticket)
    ends.carry()
    assert came.empty()


def box_of(key, ticket, message):
    """A box under the key with what no sender puts there."""
    nonce, named = struct.pack("<IQ", 0, 0), struct.pack("<QQ", ticket, 0)
    return AESGCM(key).encrypt(nonce, wire.encode(message), named)


def pool(stack, name, encrypt):
    stores = {DRAM: dram_arena(LAYOUT, 16)}
    made = MemPool(MemPoolConfig(instance=name, encrypt=encrypt), stores=stores)
    stack.callback(made.close)
    return made


@pytest.mark.parametrize("encrypt", [Encryption.ON, Encryption.OFF])
def test_a_capture_of_a_transfer_shows_blocks_only_in_clear(open_things, encrypt):
    """Of transfer_with_insert between two pools, with a cookie. In clear, the same capture has them all."""
    sender, receiver = (pool(open_things, name, encrypt) for name in ("a", "b"))
    relay = StreamRelay(receiver.info.data)
    open_things.callback(relay.close)
    sender.introduce(msgspec.structs.replace(receiver.info, data=relay.endpoint))
    receiver.introduce(sender.info)
    tokens = np.arange(70_000, 70_000 + 4 * PAGE)
    blocks = sender.alloc_mem(4, DRAM)
    data = torch.randint(0, 256, (4, LAYOUT.block_bytes), dtype=torch.uint8)
    sender.local.tier(DRAM).store.scatter(torch.from_numpy(blocks.blocks).long(), data)
    sender.insert(tokens, blocks)
    sender.transfer_with_insert("b", tokens, blocks, private=COOKIE)
    with receiver.match(tokens) as found:
        assert found.blocks == 4
    capture = b"".join(message.raw for message in (*relay.sent, *relay.answered))
    assert len(capture) > data.numel()
    shows_blocks = any(bytes(row[at : at + 16].numpy()) in capture for row in data for at in (0, 500, 1000))
    assert shows_blocks == (COOKIE in capture) == (encrypt is Encryption.OFF)
    assert not any(tokens[n : n + 2].astype("<i4").tobytes() in capture for n in range(len(tokens) - 1))
