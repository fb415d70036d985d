"""What is read from answers, in whichever form they come."""

import json

import pytest

from router.protocol.answer import Answer
from router.protocol.usage import Outcome, outcome_of, watched

META = {"prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 2}
DETAILS = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}


def event(value):
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def told_by(chunks):
    outcomes = []

    async def rest():
        for chunk in chunks[1:]:
            yield chunk

    answer = watched(Answer(200, {}, chunks[0], rest()), outcomes.append)
    assert [answer.body, *[chunk async for chunk in answer.rest]] == chunks
    (outcome,) = outcomes
    return outcome


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ({"output_ids": [5, 6], "meta_info": META}, Outcome(9, 4, (5, 6), 2)),
        ({"output_ids": [6], "meta_info": META}, Outcome(9, 4, (), 2)),
        ({"output_ids": [5, "x"], "meta_info": META}, Outcome(9, 4, (), 2)),
        ({"output_ids": [5, 1 << 40], "meta_info": META}, Outcome(9, 4, (), 2)),
        ({"meta_info": {"prompt_tokens": "9"}}, Outcome()),
        ({"usage": DETAILS}, Outcome(9, 4)),
        ({"usage": DETAILS | {"completion_tokens": 3}}, Outcome(9, 4, (), 3)),
        ({"usage": {"prompt_tokens": 9, "prompt_tokens_details": None}}, Outcome(9)),
        ([{"meta_info": META}], Outcome()),
        ({"usage": None, "text": '"prompt_tokens"'}, Outcome()),
        ({"text": "x" * (1 << 20), "meta_info": META}, Outcome()),
    ],
)
def test_a_whole_answer(value, outcome):
    assert outcome_of(json.dumps(value).encode()) == outcome


@pytest.mark.parametrize("raw", [b"", b'{"prompt_tokens"', b"[DONE]", b'"prompt_tokens"'])
def test_what_is_no_answer_tells_nothing(raw):
    assert outcome_of(raw) == Outcome()


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_a_stream_tells_at_its_end_wherever_its_chunks_are_cut(size):
    first = {"output_ids": [5], "meta_info": {**META, "completion_tokens": 1}}
    last = {"output_ids": [5, 6], "meta_info": META}
    raw = event(first) + event(last) + b"data: [DONE]\n\n"
    assert await told_by([raw[at : at + size] for at in range(0, len(raw), size)]) == Outcome(9, 4, (5, 6), 2)


async def test_a_chats_stream_tells_if_its_client_asked_for_usage():
    said = event({"choices": [{"delta": {"content": "a"}}], "usage": None})
    assert await told_by([said, event({"choices": [], "usage": DETAILS}), b"data: [DONE]\n\n"]) == Outcome(
        9, 4
    )
    assert await told_by([said, b"data: [DONE]\n\n"]) == Outcome()
