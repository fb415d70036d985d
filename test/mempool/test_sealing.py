"""Messages under a ticket's key: what is opened is what was sealed, once and in order, and nothing else."""

import itertools
import secrets

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mempool import wire
from mempool.errors import FrameError
from mempool.transfer.sealing import MessageOpener, MessageSealer

KEY = bytes(range(16))
NUMBERS = st.integers(0, 2**64 - 1)
MESSAGES = st.one_of(
    st.builds(wire.Begin, NUMBERS, NUMBERS),
    st.builds(wire.Blocks, NUMBERS, NUMBERS, NUMBERS, st.integers(1, 2**64 - 1), NUMBERS, st.just(1)),
    st.builds(wire.Finish, NUMBERS, NUMBERS, NUMBERS, st.binary(max_size=100)),
    st.builds(wire.Fail, NUMBERS, NUMBERS, st.text(max_size=50)),
)
ANSWERS = st.one_of(
    st.builds(wire.Ack, NUMBERS, NUMBERS),
    st.builds(wire.Refuse, NUMBERS, NUMBERS, st.text(max_size=50)),
)
BLOCKS = wire.Blocks(7, 1, 0, 1, 0, 1)


def flipped(data: bytes, bit: int) -> bytes:
    bit %= 8 * len(data)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def sealed_blocks(payload: bytes, sealer: MessageSealer | None = None) -> tuple[wire.Sealed, bytes]:
    into = bytearray(len(payload))
    sealed = (sealer or MessageSealer(KEY)).seal(BLOCKS, [payload], memoryview(into))
    return sealed, bytes(into)


def opened_payload(sealed: wire.Sealed, payload: bytes, cuts: list[int]) -> bytes:
    """Read as a socket gives it, in parts."""
    opener = MessageOpener(KEY)
    opener.open(sealed)
    context, memory = opener.payload(sealed), memoryview(bytearray(payload))
    bounds = [0, *sorted(cut % (len(payload) + 1) for cut in cuts), len(payload)]
    for start, end in itertools.pairwise(bounds):
        context.open([memory[start : start + 3], memory[start + 3 :]], end - start)
    context.verify()
    return bytes(memory)


@settings(deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=4))
def test_messages_are_opened_as_they_were_sealed(messages):
    sealer, opener = MessageSealer(KEY), MessageOpener(KEY)
    for message in messages:
        sealed = wire.decode_to_receiver(wire.encode(sealer.seal(message)))
        assert opener.open(sealed) == message
        opener.accept(sealed)


@settings(deadline=None)
@given(MESSAGES, ANSWERS)
def test_an_answer_is_opened_as_it_was_sealed(message, answer):
    sealer, opener = MessageSealer(KEY), MessageOpener(KEY)
    sealed = sealer.seal(msgspec.structs.replace(message, ticket=answer.ticket, seq=answer.seq))
    assert sealer.open_answer(opener.seal_answer(sealed, answer)) == answer


@settings(deadline=None)
@given(MESSAGES, st.sampled_from(["box", "payload_tag", "ticket", "seq", "number"]), st.integers(0, 10**6))
def test_a_bit_that_flips_anywhere_in_a_header_is_noticed(message, field, bit):
    sealed = msgspec.structs.replace(MessageSealer(KEY).seal(message), payload_tag=b"")
    value = getattr(sealed, field)
    # There is no payload, and no tag of one.
    changed = value ^ 1 << bit % 64 if isinstance(value, int) else flipped(value or b"x", bit)
    with pytest.raises(FrameError):
        MessageOpener(KEY).open(msgspec.structs.replace(sealed, **{field: changed}))


@settings(deadline=None)
@given(ANSWERS, st.sampled_from(["box", "ticket", "seq", "number"]), st.integers(0, 10**6))
def test_a_bit_that_flips_anywhere_in_an_answer_is_noticed(answer, field, bit):
    sealer = MessageSealer(KEY)
    sealed = MessageOpener(KEY).seal_answer(sealer.seal(wire.Begin(answer.ticket, answer.seq)), answer)
    value = getattr(sealed, field)
    changed = value ^ 1 << bit % 64 if isinstance(value, int) else flipped(value, bit)
    with pytest.raises(FrameError):
        sealer.open_answer(msgspec.structs.replace(sealed, **{field: changed}))


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_a_payload_is_opened_in_place_however_it_is_cut(payload, cuts):
    sealed, encrypted = sealed_blocks(payload)
    assert opened_payload(sealed, encrypted, cuts) == payload


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_bit_that_flips_anywhere_in_a_payload_is_noticed(payload, bit, cut):
    sealed, encrypted = sealed_blocks(payload)
    with pytest.raises(FrameError, match="payload"):
        opened_payload(sealed, flipped(encrypted, bit), [cut])


def test_a_payload_that_ends_early_is_noticed():
    sealed, encrypted = sealed_blocks(b"x" * 100)
    with pytest.raises(FrameError, match="payload"):
        opened_payload(sealed, encrypted[:-1], [])


@pytest.mark.parametrize("tag", [b"", b"\0" * 15, b"\0" * 16])
def test_a_payload_of_another_message_is_noticed(tag):
    sealer, opener = MessageSealer(KEY), MessageOpener(KEY)
    first, encrypted = sealed_blocks(b"x" * 100, sealer)
    second, _ = sealed_blocks(b"x" * 100, sealer)
    for sealed in (second, msgspec.structs.replace(first, payload_tag=tag)):
        with pytest.raises(FrameError):
            opener.payload(sealed).open_frames([encrypted])


@pytest.mark.parametrize("order", [[1], [0, 0], [0, 2], [0, 1, 0], [0, 1, 1]])
def test_messages_that_are_repeated_or_left_out_are_noticed(order):
    sealer, opener = MessageSealer(KEY), MessageOpener(KEY)
    sealed = [sealer.seal(wire.Begin(7, seq)) for seq in range(3)]
    for number in order[:-1]:
        opener.open(sealed[number])
        opener.accept(sealed[number])
    with pytest.raises(FrameError, match="was due"):
        opener.open(sealed[order[-1]])


def test_that_a_sender_gave_up_is_heard_where_messages_before_were_lost():
    sealer, opener = MessageSealer(KEY), MessageOpener(KEY)
    sealer.seal(wire.Begin(7, 0))
    failed = sealer.seal(wire.Fail(7, 0, "its connection broke"))
    assert opener.open(failed) == wire.Fail(7, 0, "its connection broke")
    opener.accept(failed)
    with pytest.raises(FrameError, match="was due"):
        opener.open(failed)


def test_another_key_opens_nothing():
    with pytest.raises(FrameError, match="key"):
        MessageOpener(secrets.token_bytes(16)).open(MessageSealer(KEY).seal(wire.Begin(7, 0)))


def test_what_is_said_to_a_receiver_is_no_answer():
    """Sent back to where it came from."""
    sealer = MessageSealer(KEY)
    with pytest.raises(FrameError):
        sealer.open_answer(sealer.seal(wire.Begin(7, 0)))


def test_a_message_sealed_twice_looks_different_and_the_source_stays():
    payload = b"x" * 64
    sealer = MessageSealer(KEY)
    (first, encrypted), (second, again) = sealed_blocks(payload, sealer), sealed_blocks(payload, sealer)
    assert first.box != second.box
    assert encrypted != again
    assert payload == b"x" * 64
