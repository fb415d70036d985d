"""What is read from answers, in whichever form they come."""

import json

import pytest

from router.protocol.answer import UpstreamAnswer
from router.protocol.usage import ReportedUsage, usage_of, watched

META = {"prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 2}
DETAILS = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}


def event(value):
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def usage_in(chunks):
    reported = []

    async def rest():
        for chunk in chunks[1:]:
            yield chunk

    answer = watched(UpstreamAnswer(200, {}, chunks[0], rest()), reported.append)
    assert [answer.body, *[chunk async for chunk in answer.rest]] == chunks
    (usage,) = reported
    return usage


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        ({"output_ids": [5, 6], "meta_info": META}, ReportedUsage(9, 4, (5, 6), 2)),
        ({"output_ids": [6], "meta_info": META}, ReportedUsage(9, 4, (), 2)),
        ({"output_ids": [5, "x"], "meta_info": META}, ReportedUsage(9, 4, (), 2)),
        ({"output_ids": [5, 1 << 40], "meta_info": META}, ReportedUsage(9, 4, (), 2)),
        ({"meta_info": {"prompt_tokens": "9"}}, ReportedUsage()),
        ({"usage": DETAILS}, ReportedUsage(9, 4)),
        ({"usage": DETAILS | {"completion_tokens": 3}}, ReportedUsage(9, 4, (), 3)),
        ({"usage": {"prompt_tokens": 9, "prompt_tokens_details": None}}, ReportedUsage(9)),
        ([{"meta_info": META}], ReportedUsage()),
        ({"usage": None, "text": '"prompt_tokens"'}, ReportedUsage()),
        ({"text": "x" * (1 << 20), "meta_info": META}, ReportedUsage()),
    ],
)
def test_a_whole_answer(value, usage):
    assert usage_of(json.dumps(value).encode()) == usage


@pytest.mark.parametrize("raw", [b"", b'{"prompt_tokens"', b"[DONE]", b'"prompt_tokens"'])
def test_what_is_no_answer_reports_nothing(raw):
    assert usage_of(raw) == ReportedUsage()


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_a_stream_reports_at_its_end_wherever_its_chunks_are_cut(size):
    first = {"output_ids": [5], "meta_info": {**META, "completion_tokens": 1}}
    last = {"output_ids": [5, 6], "meta_info": META}
    raw = event(first) + event(last) + b"data: [DONE]\n\n"
    chunks = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert await usage_in(chunks) == ReportedUsage(9, 4, (5, 6), 2)


async def test_a_chats_stream_reports_usage_if_its_client_asked_for_usage():
    said = event({"choices": [{"delta": {"content": "a"}}], "usage": None})
    usage, done = event({"choices": [], "usage": DETAILS}), b"data: [DONE]\n\n"
    assert await usage_in([said, usage, done]) == ReportedUsage(9, 4)
    assert await usage_in([said, done]) == ReportedUsage()
