"""What a pair cannot answer goes to colocated instances, or is refused with the reason."""

import asyncio
import json

import pytest
from router_requests import post

SINGLE = {"text": "hi", "sampling_params": {"max_new_tokens": 4}}
SAMPLES = {"memserve": {"room_per_sample": True}}
N = {"prompt": "a", "n": 2}


async def workers(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        return {entry["url"]: entry for entry in (await response.json())["workers"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": "a", "sampling_params": {"n": 2}}),
        ("/generate", {"text": ["a", "b"], "sampling_params": [{"n": 2}, {"n": 2}]}),
        ("/v1/completions", {"prompt": "a", "n": 2}),
        ("/v1/chat/completions", {"messages": [], "n": 2}),
        ("/v1/chat/completions", {"messages": [], "n": 2.0}),
        ("/v1/completions", {"prompt": "a", "n": "2"}),
        ("/generate", {"text": "a", "sampling_params": {"n": "2"}}),
    ],
)
async def test_several_answers_to_a_prompt_are_for_colocated_instances(start, path, body):
    pair = await start(prefill=1, decode=1)
    status, answer = await post(pair, body, path)
    assert status == 400
    assert "n=2" in json.loads(answer)["error"]["message"].replace("'", "")
    assert pair.prefill[0].seen == pair.decode[0].seen == []
    mixed = await start(prefill=1, decode=1, colocated=1)
    for _ in range(3):
        assert (await post(mixed, body, path))[0] == 200
    assert len(mixed.colocated[0].seen) == 3


async def test_several_answers_to_a_prompt_pass_to_a_pair_that_keeps_them_apart(start):
    pair = await start(prefill=1, decode=1, info=SAMPLES)
    assert await post(pair, N, "/v1/completions") == (200, pair.decode[0].answer)
    (body,) = pair.prefill[0].bodies
    assert pair.decode[0].bodies == [body]
    assert (body["n"], type(body["bootstrap_room"])) == (2, int)


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_a_stock_server_in_the_place_of_ours_is_asked_anew(start, role):
    pair = await start(prefill=1, decode=1, info=SAMPLES, health_check_interval_secs=0.05)
    mock = getattr(pair, role)[0]
    await mock.die()
    while (await workers(pair))[mock.url]["healthy"]:
        await asyncio.sleep(0.01)
    mock.info.pop("memserve")
    await mock.start()
    while not (await workers(pair))[mock.url]["healthy"]:
        await asyncio.sleep(0.01)
    assert (await post(pair, N, "/v1/completions"))[0] == 400
    assert (await post(pair, SINGLE))[0] == 200


async def test_several_answers_skip_stock_servers_among_ours(start):
    mixed = await start(prefill=2, decode=2, info=SAMPLES, health_check_interval_secs=0.05)
    for mock in (mixed.prefill[0], mixed.decode[1]):
        mock.info.pop("memserve")
        await mock.die()
        while (await workers(mixed))[mock.url]["healthy"]:
            await asyncio.sleep(0.01)
        await mock.start()
        while not (await workers(mixed))[mock.url]["healthy"]:
            await asyncio.sleep(0.01)
    for _ in range(4):
        assert (await post(mixed, N, "/v1/completions"))[0] == 200
    assert mixed.prefill[0].seen == mixed.decode[1].seen == []
    assert len(mixed.prefill[1].seen) == len(mixed.decode[0].seen) == 4


@pytest.mark.parametrize("n", [None, 1, 1.0, "1"])
async def test_one_answer_to_a_prompt_is_for_pairs_however_it_is_written(pd, n):
    assert (await post(pd, {"prompt": "a", "n": n}, "/v1/completions"))[0] == 200


async def test_a_batch_over_the_limit_is_for_colocated_instances(start):
    pair = await start(prefill=1, decode=1, max_batch_prompts=3)
    assert (await post(pair, {"text": ["a"] * 3}))[0] == 200
    status, answer = await post(pair, {"text": ["a"] * 4})
    message = json.loads(answer)["error"]["message"]
    assert (status, len(pair.prefill[0].seen), len(pair.decode[0].seen)) == (400, 1, 1)
    assert message.startswith("4 prompts")
    assert "takes 3 (--max-batch-prompts)" in message
    mixed = await start(prefill=1, decode=1, colocated=1, max_batch_prompts=3)
    for _ in range(3):
        assert (await post(mixed, {"text": ["a"] * 4}))[0] == 200
    assert len(mixed.colocated[0].seen) == 3


@pytest.mark.parametrize(
    "asked",
    [
        {"return_hidden_states": True},
        {"return_hidden_states": [False, "last"]},
        {"return_routed_experts": True},
        {"return_indexer_topk": True},
    ],
)
async def test_what_each_half_knows_in_part_is_for_colocated_instances(start, asked):
    mixed = await start(prefill=1, decode=1, colocated=1)
    for _ in range(3):
        assert (await post(mixed, SINGLE | asked))[0] == 200
    assert len(mixed.colocated[0].seen) == 3
    await mixed.colocated[0].die()
    await post(mixed, SINGLE | asked)
    status, answer = await post(mixed, SINGLE | asked)
    assert status == 400
    assert next(iter(asked)) in json.loads(answer)["error"]["message"]
    assert (await post(mixed, SINGLE | dict.fromkeys(asked, False)))[0] == 200
