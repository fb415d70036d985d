"""Answers carry the client's names, however they arrive, and their tokens are counted."""

import json

import pytest

from router.errors import BadRequest
from router.protocol.answer import UpstreamAnswer
from router.tenants.answer import TenantAnswer

TAG = "0123456789abcdef01234567-"


async def delivered(answer):
    return answer.body + b"".join([chunk async for chunk in answer.rest])


def stream(*chunks):
    async def rest():
        for chunk in chunks[1:]:
            yield chunk

    return UpstreamAnswer(200, {}, chunks[0], rest())


@pytest.mark.parametrize("cut", range(1, 60))
async def test_a_name_cut_in_two_is_found(cut):
    text = b'data: {"id": "' + TAG.encode() + b'mine", "x": "' + TAG[:9].encode() + b'"}\n\n'
    answer = TenantAnswer(TAG).of(stream(text[:cut], text[cut:], TAG[:5].encode()))
    assert await delivered(answer) == text.replace(TAG.encode(), b"") + TAG[:5].encode()


async def test_bytes_one_at_a_time_lose_nothing():
    text = (b"01" + TAG.encode() + b"0123" + TAG.encode()) * 3 + b"\n\n"
    answer = TenantAnswer(TAG).of(stream(b"", *(bytes([byte]) for byte in text)))
    assert await delivered(answer) == text.replace(TAG.encode(), b"")


async def test_a_failure_in_a_stream_has_the_clients_name():
    async def rest():
        yield b"data: {}\n\n"
        raise BadRequest(f"{TAG}mine was aborted")

    answer = TenantAnswer(TAG).of(UpstreamAnswer(200, {}, b"", rest()))
    with pytest.raises(BadRequest) as failure:
        await delivered(answer)
    assert b'"mine was aborted"' in failure.value.body


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"meta_info": {"completion_tokens": 7}}, 7),
        ({"usage": {"completion_tokens": 7}}, 7),
        ([{"meta_info": {"completion_tokens": 7}}, {"meta_info": {"completion_tokens": 5}}], 12),
        ([{"completion_tokens": 7}, None, 5], 0),
        ({"usage": {"completion_tokens": "7"}}, 0),
        ({"usage": {"completion_tokens": -7}}, 0),
        ({"text": "a"}, 0),
    ],
)
def test_tokens_are_those_that_the_answer_reports(body, tokens):
    counted = TenantAnswer(TAG)
    counted.of(UpstreamAnswer(200, {}, json.dumps(body).encode()))
    assert counted.tokens == tokens


async def test_a_stream_counts_by_events_or_its_report():
    counted = TenantAnswer(TAG)
    answer = counted.of(stream(b'data: {"a": 1}\n\nda', b'ta: {"a": 1}\n\n', b"data: [DONE]\n\n"))
    assert counted.tokens == 1
    await delivered(answer)
    assert counted.tokens == 2
    counted = TenantAnswer(TAG)
    await delivered(counted.of(stream(b'data: {"usage": {"completion_tokens": 9}}\n\n', b"data: [DONE]\n\n")))
    assert counted.tokens == 9
