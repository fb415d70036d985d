"""Bodies, rooms and events, without sockets."""

import json

import pytest

from router.instances.instance import Instance, Role
from router.protocol import body, sse
from router.protocol.bootstrap import bootstrap_fields, new_rooms


def test_rooms_are_63_bits_unique_and_never_0():
    rooms = {*new_rooms(20_000), *(new_rooms(1)[0] for _ in range(1000))}
    assert len(rooms) == 21_000
    assert all(0 < room < 2**63 for room in rooms)
    assert max(rooms) > 2**60


def test_no_room_is_0_even_if_chance_says_so():
    assert 0 not in new_rooms(3, bytes)


def test_an_ipv6_host_loses_its_brackets():
    prefill = Instance("http://[::1]:30001", Role.PREFILL, 8998)
    assert prefill.bootstrap_host == "::1"
    fields = bootstrap_fields({"text": "a"}, "/generate", prefill.bootstrap_host, prefill.bootstrap_port)
    assert (fields["bootstrap_host"], fields["bootstrap_port"]) == ("::1", 8998)


@pytest.mark.parametrize("raw", [b"", b"[]", b"1", b"{", b"null", b'"{}"', b"[" * 200_000])
def test_what_is_no_json_object_is_none(raw):
    assert body.parse(raw) is None


@pytest.mark.parametrize("text", ['{"a": 1e400}', '{"a": 98765432109876543210}', '{"a": "\\ud800"}'])
def test_a_body_is_written_as_it_was_read(text):
    parsed = body.parse(text.encode())
    for extra in ({}, {"b_room": 1}):
        assert json.loads(parsed.replacing("b_", extra)) == json.loads(text) | extra
        taken = body.parse(b'{"b_room": 7, "b_x": 8, ' + text.encode()[1:])
        assert json.loads(taken.replacing("b_", extra)) == json.loads(text) | extra


@pytest.mark.parametrize("raw", [b"{}", b" { } \n", b'{"a": {}}\r\n', '{"a": "é"}'.encode("utf-16")])
def test_fields_are_added_to_any_object(raw):
    assert json.loads(body.parse(raw).replacing("b_", {"b_room": 1})) == json.loads(raw) | {"b_room": 1}


def test_events_are_cut_wherever_the_chunks_end():
    stream = b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
    for size in range(1, len(stream)):
        buffer = sse.EventBuffer()
        chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert [e for chunk in chunks for e in buffer.feed(chunk)] == [
            b"data: 1",
            b"data: 2",
            b"data: [DONE]",
        ]


def test_an_endless_event_is_not_kept():
    buffer = sse.EventBuffer(limit=100)
    for _ in range(1000):
        assert list(buffer.feed(b"x" * 50)) == []
    assert len(buffer._rest) <= 150


@pytest.mark.parametrize(
    ("event", "failure"),
    [
        (b'data: {"error": {"message": "x"}}', True),
        (b'data: {"meta_info": {"finish_reason": {"type": "abort"}}}', True),
        (b'data: {"meta_info": {"finish_reason": {"type": "length"}}, "text": "abort"}', False),
        (b'data: {"text": "an \\"error\\" and \\"abort\\"", "meta_info": {"finish_reason": null}}', False),
        (b'data: {"error": null, "text": "fine"}', False),
        (b'event: error\ndata: {"type": "error", "error": {"message": "x"}}', True),
        (b'event: ping\ndata: {"type": "ping", "text": "error"}', False),
        (b'data: ["error"]', False),
        (b"data: [DONE]", False),
    ],
)
def test_a_failure_in_a_stream_is_seen(event, failure):
    assert (sse.failure_in(event) is not None) is failure
