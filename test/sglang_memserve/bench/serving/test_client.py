"""One request: what is timed, what is read, and what counts as a failure."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sglang_memserve.bench.serving.answer import RequestError
from sglang_memserve.bench.serving.client import Client, open_session
from sglang_memserve.bench.workloads.form import WorkloadTurn

TURN = WorkloadTurn(tuple(range(10)), 4, "ten letter")


@pytest.fixture
async def saying():
    """A client of a server that answers any request with the given events (or status and text)."""
    open_servers = []

    async def start(*events, status=200, hang=False):
        async def answer(request):
            if status != 200:
                return web.Response(status=status, text=events[0])
            response = web.StreamResponse()
            await response.prepare(request)
            for event in events:
                await response.write(event.encode())
            if hang:
                await asyncio.sleep(10)
            return response

        app = web.Application()
        app.router.add_post("/{any:.*}", answer)
        server, session = TestServer(app), open_session()
        await server.start_server()
        open_servers.append((server, session))
        return Client(session, str(server.make_url("")).rstrip("/"), timeout_s=1.0)

    yield start
    for server, session in open_servers:
        await session.close()
        await server.close()


async def ask(client, conversation, turn=TURN):
    return await client.ask(conversation, conversation.ask(turn))


async def test_an_answer_is_read_in_every_form(engine, client, conversing, api):
    answer = await ask(client, conversing(api)())
    assert (answer.tokens, len(answer.token_times)) == (4, 4)
    assert (answer.prompt_tokens, answer.cached_tokens) == (10, 5)
    if api == "generate":
        assert answer.ids == [10, 11, 12, 13]
    else:
        assert answer.text == " 10 11 12 13"


async def test_first_token_and_gaps_are_timed(engine, client, conversing, api):
    engine.first_s, engine.gap_s = 0.2, 0.05
    answer = await ask(client, conversing(api)())
    assert answer.ttft > 0.19
    assert answer.tpot > 0.045
    assert answer.end >= answer.token_times[-1] > answer.ttft + 0.14


async def test_an_answer_of_one_token_has_no_time_per_token(client, conversing):
    answer = await ask(client, conversing()(), WorkloadTurn((1,), 1))
    assert answer.tpot is None


@pytest.mark.parametrize("ignore", [True, False])
async def test_exact_lengths_are_asked_for_by_default(engine, client, conversing, api, ignore):
    await ask(client, conversing(api, ignore_eos=ignore)())
    body = engine.bodies[0]
    asked = body.get("sampling_params", body)
    # A server of OpenAI's refuses a field that it does not know.
    assert asked.get("ignore_eos", False) is ignore


async def test_new_tokens_alone_are_understood_too(saying, conversing):
    first = 'data: {"output_ids": [7, 8], "meta_info": {"completion_tokens": 2}}\n\n'
    last = 'data: {"output_ids": [9], "meta_info": {"completion_tokens": 3}}\n\n'
    answer = await ask(await saying(first, last, "data: [DONE]\n\n"), conversing()())
    assert answer.ids == [7, 8, 9]
    assert answer.token_times[0] == answer.token_times[1] <= answer.token_times[2]


async def test_sources_of_cached_tokens_are_kept(saying, conversing):
    meta = (
        '{"completion_tokens": 1, "prompt_tokens": 50, "cached_tokens": 48,'
        ' "cached_tokens_details": {"device": 32, "host": 16, "storage_backend": "x"}}'
    )
    event = f'data: {{"output_ids": [1], "meta_info": {meta}}}\r\n\r\n'
    answer = await ask(await saying(event, "data: [DONE]\r\n\r\n"), conversing()())
    assert answer.cached_by == {"device": 32, "host": 16}


async def test_tokens_without_text_still_have_a_time(saying, conversing):
    end = (
        'data: {"choices": [{"text": "", "finish_reason": "length"}], "usage": {"completion_tokens": 4}}\n\n'
    )
    answer = await ask(await saying(end, "data: [DONE]\n\n"), conversing("completions")())
    assert (answer.tokens, answer.ttft) == (4, answer.end)


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        (['data: {"error": {"message": "out of memory"}}\n\n'], "out of memory"),
        (['data: {"output_ids": [1], "meta_info": {"completion_tokens": 1}}\n\n'], "broke off after 1 token"),
        (["data: nonsense\n\n"], "no JSON: nonsense"),
        (["data: [1]\n\n"], "no object"),
        (['data: {"meta_info": 3}\n\n'], "no known form"),
        (["data: [DONE]\n\n"], "without a token"),
        (
            ['data: {"meta_info": {"finish_reason": {"type": "abort", "message": "queue full"}}}\n\n'],
            "aborted: queue full",
        ),
    ],
)
async def test_what_is_no_whole_answer_fails(saying, conversing, events, complaint):
    with pytest.raises(RequestError, match=complaint):
        await ask(await saying(*events), conversing()())


async def test_a_refusal_is_reported_with_its_text(saying, conversing):
    with pytest.raises(RequestError, match="503: no worker"):
        await ask(await saying("no worker", status=503), conversing()())


async def test_an_answer_that_does_not_come_is_given_up(saying, conversing):
    with pytest.raises(RequestError, match="within 1 s"):
        await ask(await saying("data: {}\n\n", hang=True), conversing()())


async def test_a_server_that_is_not_there_fails_the_request(conversing, free_port):
    async with open_session() as session:
        with pytest.raises(RequestError, match="Cannot connect"):
            await ask(Client(session, f"http://127.0.0.1:{free_port()}", 5.0), conversing()())


async def test_an_answer_without_reported_ids_cannot_be_continued(saying, conversing):
    event = (
        'data: {"text": "x", "meta_info": {"completion_tokens": 2, "finish_reason": {"type": "length"}}}\n\n'
    )
    conversation = conversing()()
    answer = await ask(await saying(event), conversation)
    with pytest.raises(RequestError, match="output_ids"):
        conversation.keep(answer)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_token_ids_alone_cannot_be_asked_by_text(conversing, api):
    with pytest.raises(RequestError, match="--api generate"):
        conversing(api)().ask(WorkloadTurn((1, 2), 3))
