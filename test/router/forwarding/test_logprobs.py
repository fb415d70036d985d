"""Prefill's log-probabilities of the prompt in decode's answer."""

import asyncio
import json

import pytest
from router_requests import post

ASKED = {"text": "hi", "return_logprob": True, "logprob_start_len": 0}
ECHO = {"prompt": "hi", "echo": True, "logprobs": 1}
PROMPT = [[None, 5, None], [-0.1234567890123456, 6, None]]


def part(prompt, output=((-1.5, 7, None),), finish="length", **meta):
    return {
        "text": "é",
        "meta_info": {
            "id": "x",
            "finish_reason": finish and {"type": finish},
            "completion_tokens": len(output),
            "input_token_logprobs": prompt,
            "input_top_logprobs": prompt,
            "output_token_logprobs": list(output),
            "output_token_logprobs_length": len(output),
            **meta,
        },
    }


def choice(index, tokens, top):
    return {"index": index, "text": "t", "logprobs": {"tokens": tokens, "top_logprobs": top}}


def event(value):
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def answer(mock, value):
    mock.answer = json.dumps(value).encode()


async def events(cluster, body, path="/generate"):
    status, raw = await post(cluster, body | {"stream": True}, path)
    assert status == 200, raw
    *parts, done, rest = raw.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(part.removeprefix(b"data: ")) for part in parts]


async def test_a_single_answer_gets_the_prompts_part_and_keeps_all_else(pd):
    answer(pd.p, part(PROMPT, cached_tokens=1))
    answer(pd.d, part([], output=[[-1, 7, None], [-2, 8, None]], cached_tokens=3))
    status, got = await post(pd, ASKED)
    assert status == 200
    assert json.loads(got) == part(PROMPT, output=[[-1, 7, None], [-2, 8, None]], cached_tokens=3) | {
        "meta_info": json.loads(pd.d.answer)["meta_info"]
        | {"input_token_logprobs": PROMPT, "input_top_logprobs": PROMPT}
    }


async def test_a_batch_is_matched_by_its_order(pd):
    answer(pd.p, [part([[None, n, None]]) for n in range(3)])
    answer(pd.d, [part([]) for _ in range(3)])
    _, got = await post(pd, ASKED | {"text": ["a", "b", "c"]})
    assert [part["meta_info"]["input_token_logprobs"][0][1] for part in json.loads(got)] == [0, 1, 2]


async def test_every_event_of_a_stream_has_them_as_sglang_itself_does(pd):
    pd.p.chunks = [event(part(PROMPT)), b"data: [DONE]\n\n"]
    first, second = part([], finish=None), part([])
    raw = event(first) + event(second)
    pd.d.chunks = [raw[:30], raw[30:200], raw[200:], b"data: [DONE]\n\n"]
    got = await events(pd, ASKED)
    assert [part["meta_info"]["input_token_logprobs"] for part in got] == [PROMPT, PROMPT]
    assert [part["text"] for part in got] == ["é", "é"]


async def test_decode_waits_for_the_prompt_that_it_answers_and_for_no_other(pd):
    pd.p.chunks = [event(part(PROMPT) | {"index": 1}), event(part(PROMPT) | {"index": 0})]
    pd.p.hold_after = 1
    pd.d.chunks = [event(part([]) | {"index": 1}), event(part([]) | {"index": 0}), b"data: [DONE]\n\n"]
    async with pd.session.post(f"{pd.url}/generate", json=ASKED | {"stream": True}) as response:
        first = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 5)
        assert json.loads(first.removeprefix(b"data: "))["index"] == 1
        pd.p.release.set()
        assert (await response.read()).count(b"data: ") == 2


async def test_an_unstreamed_answer_waits_for_a_slower_prefill(pd):
    pd.p.hold = True
    answer(pd.p, part(PROMPT))
    answer(pd.d, part([]))
    request = asyncio.create_task(post(pd, ASKED))
    await asyncio.gather(pd.p.arrived.wait(), pd.d.arrived.wait())
    await asyncio.sleep(0.05)
    assert not request.done()
    pd.p.release.set()
    assert b"0.1234567890123456" in (await request)[1]


async def test_echoed_prompts_of_completions_come_before_their_answers(pd):
    tops = [None, {"b": -1.0}]
    answer(pd.p, {"choices": [choice(i, ["a", f"b{i}", "X"], [*tops, {"X": 0.0}]) for i in range(2)]})
    answer(pd.d, {"choices": [choice(i, ["X", "Y"], [{"X": 0.0}, {"Y": 0.0}]) for i in range(2)], "usage": 1})
    _, got = await post(pd, ECHO | {"prompt": ["p", "q"]}, "/v1/completions")
    expected = [choice(i, ["a", f"b{i}", "X", "Y"], [*tops, {"X": 0.0}, {"Y": 0.0}]) for i in range(2)]
    assert json.loads(got) == {"choices": expected, "usage": 1}


async def test_a_completions_stream_has_them_once_for_each_choice(pd):
    pd.p.chunks = [event({"choices": [choice(i, [f"a{i}", "X"], [None, {}])]}) for i in (1, 0)]
    order = (0, 1, 0, 1)
    pd.d.chunks = [event({"choices": [choice(i, ["X"], [{}])]}) for i in order]
    pd.d.chunks += [event({"choices": [], "usage": 1}), b"data: [DONE]\n\n"]
    *got, usage = await events(pd, ECHO, "/v1/completions")
    tokens = [(part["choices"][0]["index"], part["choices"][0]["logprobs"]["tokens"]) for part in got]
    assert tokens == [(0, ["a0", "X"]), (1, ["a1", "X"]), (0, ["X"]), (1, ["X"])]
    assert usage == {"choices": [], "usage": 1}


async def test_what_the_handoff_leaves_out_of_the_first_token_comes_from_prefill(pd):
    answer(pd.p, part(PROMPT, output_token_ids_logprobs=[[[-1, 1, None]]]))
    answer(pd.d, part([], output_token_ids_logprobs=[None, [[-2, 1, None]]]))
    _, got = await post(pd, {"text": "a", "return_logprob": True, "token_ids_logprob": [1]})
    assert json.loads(got)["meta_info"]["output_token_ids_logprobs"] == [[[-1, 1, None]], [[-2, 1, None]]]


async def test_no_new_tokens_have_no_log_probabilities(pd):
    answer(pd.p, part(PROMPT))
    answer(pd.d, part([], completion_tokens=0))
    asked = {"text": "a", "return_logprob": True, "sampling_params": {"max_new_tokens": 0}}
    meta = json.loads((await post(pd, asked))[1])["meta_info"]
    assert (meta["output_token_logprobs"], meta["output_token_logprobs_length"]) == ([], 0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": "a", "return_logprob": True}),
        ("/generate", {"text": "a", "logprob_start_len": 0}),
        ("/v1/completions", {"prompt": "a", "logprobs": 2}),
        ("/v1/completions", {"prompt": "a", "echo": True}),
        ("/v1/chat/completions", {"messages": [], "logprobs": True, "top_logprobs": 2}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_who_does_not_ask_gets_decodes_own_bytes(pd, path, body, stream):
    answer(pd.p, part(PROMPT))
    pd.p.chunks = [event(part(PROMPT))]
    pd.d.answer = json.dumps(part([]), indent=3).encode()
    status, got = await post(pd, body | {"stream": stream}, path)
    assert (status, got) == (200, b"".join(pd.d.chunks) if stream else pd.d.answer)


@pytest.mark.parametrize("stream", [False, True])
async def test_prefills_failure_is_the_answer_though_decode_had_its_own(pd, stream):
    pd.p.hold = True
    answer(pd.d, part([]))
    pd.d.chunks = [event(part([]))]
    request = asyncio.create_task(post(pd, ASKED | {"stream": stream}))
    await asyncio.gather(pd.p.arrived.wait(), pd.d.arrived.wait())
    pd.p.refusal = (500, b'{"error": "no"}')
    pd.p.release.set()
    assert await request == (500, b'{"error": "no"}')


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prefill_that_tells_nothing_is_an_error_not_a_hang(pd, stream):
    pd.p.answer, pd.p.chunks = b'{"text": ""}', [b"data: [DONE]\n\n"]
    answer(pd.d, part([]))
    pd.d.chunks = [event(part([]))]
    status, got = await post(pd, ASKED | {"stream": stream})
    assert status == 502
    assert "log-probabilities" in json.loads(got)["error"]["message"]


async def test_an_abort_of_decodes_passes_as_it_is(pd):
    pd.p.chunks = [b"data: [DONE]\n\n"]
    pd.d.chunks = [event(part([], finish="abort")), b"data: [DONE]\n\n"]
    assert await post(pd, ASKED | {"stream": True}) == (200, b"".join(pd.d.chunks))


@pytest.mark.parametrize("side", ["p", "d"])
async def test_what_is_too_large_to_hold_is_refused(start, side):
    cluster = await start(prefill=1, decode=1, max_payload_size=4096)
    prefill, decode = cluster.prefill[0], cluster.decode[0]
    prefill.chunks, decode.chunks = [event(part(PROMPT))], [event(part([])), b"data: [DONE]\n\n"]
    large = prefill if side == "p" else decode
    large.chunks = [b'data: {"x": "' + b"x" * 5000]
    status, got = await post(cluster, ASKED | {"stream": True})
    assert status == 502
    assert "4096 bytes" in json.loads(got)["error"]["message"]
