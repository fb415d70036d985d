"""Each message of the wire comes back as it was sent; whatever is none fails as FrameError and nothing else.

Messages are found, not listed: whoever adds one gets its tests.
"""

import contextlib
import importlib

import msgspec
import pytest
from hostile_messages import nested
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from wire_messages import anything, decoders_of, messages_of, modules_that_decode, struct_classes

from mempool.errors import FrameError

MODULES = list(modules_that_decode())
DECODERS = [decoder for module in MODULES for decoder in decoders_of(module)]
MESSAGES = [
    pytest.param(decoder.decode, kind, id=f"{decoder.name}-{kind.__name__}")
    for decoder in DECODERS
    for kind in decoder.messages
]
# The same examples in every run: what fails here fails again.
STEADY = settings(
    max_examples=30, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)  # fmt: skip
# A quarter of a million elements, each of one octet.
LONG_LIST = b"\xdd\x00\x04\x00\x00" + b"\xc0" * (4 << 16)
HOSTILE = anything(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=16))
)


def refused_or_read(decode, frame):
    """Anything but FrameError fails the test."""
    with contextlib.suppress(FrameError):
        decode(frame)


def test_every_decoder_of_the_wire_is_tried():
    assert len(MESSAGES) > 30
    for module in map(importlib.import_module, MODULES):
        for name, decoder in vars(module).items():
            if isinstance(decoder, msgspec.msgpack.Decoder):
                tried = {each for way in DECODERS for kind in way.messages for each in struct_classes(kind)}
                assert struct_classes(decoder.type) <= tried, f"no public decode function for {name}"


@pytest.mark.parametrize(("decode", "kind"), MESSAGES)
@given(data=st.data())
@STEADY
def test_a_message_comes_back_as_it_was_sent(decode, kind, data):
    sent = data.draw(messages_of(kind))
    try:
        message = decode(sent)
    except FrameError:
        assume(False)
    again = msgspec.msgpack.encode(message)
    assert isinstance(message, kind)
    assert msgspec.msgpack.encode(decode(again)) == again


@pytest.mark.parametrize(("decode", "kind"), MESSAGES)
@given(data=st.data())
@STEADY
def test_spoilt_octets_fail_as_frame_error_alone(decode, kind, data):
    frame = bytearray(data.draw(messages_of(kind)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        match data.draw(st.integers(0, 3)):
            case 0:
                del frame[at:]
            case 1:
                frame[at:at] = data.draw(st.binary(max_size=20))
            case 2:
                frame[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case 3:
                frame[at:at] = frame[: data.draw(st.integers(0, len(frame)))]
    refused_or_read(decode, bytes(frame))


@pytest.mark.parametrize(("decode", "kind"), MESSAGES)
@given(data=st.data())
@STEADY
def test_fields_of_any_kind_fail_as_frame_error_alone(decode, kind, data):
    fields = msgspec.msgpack.decode(data.draw(messages_of(kind)))
    name = data.draw(st.sampled_from([*fields, "z"]))
    fields[name] = data.draw(HOSTILE)
    if data.draw(st.booleans()):
        fields.pop(data.draw(st.sampled_from(list(fields))))
    refused_or_read(decode, msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(("decode", "kind"), MESSAGES)
@given(data=st.data())
@settings(STEADY, max_examples=2)
def test_deep_and_huge_messages_fail_as_frame_error_alone(decode, kind, data):
    fields = msgspec.msgpack.decode(data.draw(messages_of(kind)))
    for name in (*fields, "z"):
        others = msgspec.msgpack.encode({key: value for key, value in fields.items() if key != name})
        for value in (*nested(), *nested(100_000), LONG_LIST, b"\xc6\xff\xff\xff\xff"):
            frame = bytes([others[0] + 1]) + others[1:] + msgspec.msgpack.encode(name) + value
            refused_or_read(decode, frame)
