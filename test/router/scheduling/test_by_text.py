"""Without a tokenizer, prompts are matched by their text."""

import asyncio
import json
import logging

import numpy as np
import pytest
from router_requests import post

from router.prompt.tokenizer import ModelTokenizer

PROMPT = "a prompt that is asked for again and again"
# Under the cost model, instances tie where a prompt is not worth its prefill.
LONG = PROMPT * 500
BODIES = [
    ("/generate", {"text": LONG}),
    ("/generate", {"text": LONG, "stream": True}),
    ("/v1/completions", {"model": "m", "prompt": LONG}),
    ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": LONG}]}),
]


def answering(mocks, prompt=20, cached=0):
    usage = {"prompt_tokens": prompt, "prompt_tokens_details": {"cached_tokens": cached}}
    meta = {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": 1}
    for mock in mocks:
        mock.answer = json.dumps({"text": "x", "meta_info": meta, "usage": usage}).encode()


def served(mocks):
    return sorted(len(mock.seen) for mock in mocks)


async def get(cluster, path):
    async with cluster.session.get(cluster.url + path) as response:
        return json.loads(await response.read())


@pytest.mark.parametrize("policy", ["cache_aware", "cost_model"])
@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_equal_prompts_stay_together(start, policy, path, body):
    cluster = await start(colocated=4, policy=policy)
    answering(cluster.colocated)
    for _ in range(8):
        assert (await post(cluster, body, path))[0] == 200
    assert served(cluster.colocated) == [0, 0, 0, 8]


async def test_both_of_a_pair_are_where_the_prompt_was(start):
    cluster = await start(prefill=3, decode=3, policy="cache_aware")
    answering(cluster.decode)
    for _ in range(6):
        await post(cluster, {"text": PROMPT})
    assert served(cluster.prefill) == served(cluster.decode) == [0, 0, 6]


async def test_other_prompts_and_other_salts_go_elsewhere(start):
    cluster = await start(colocated=2, policy="cache_aware")
    answering(cluster.colocated)
    await post(cluster, {"text": PROMPT})
    for fields in ({"text": "quite another prompt"}, {"text": PROMPT, "cache_salt": "s"}):
        status, raw = await post(cluster, fields, "/explain")
        assert status == 200
        assert [entry["cached_tokens"] for entry in json.loads(raw)["candidates"]] == [0, 0]


async def test_records_say_that_a_prompt_was_matched_by_text(start):
    cluster = await start(colocated=2, policy="cache_aware")
    answering(cluster.colocated, prompt=17, cached=5)
    for _ in range(2):
        await post(cluster, {"text": PROMPT})
    record = json.loads((await post(cluster, {"text": PROMPT}, "/explain"))[1])
    assert record["by_text"] is True
    assert record["tokenised"] is False
    assert sorted(entry["cached_tokens"] for entry in record["candidates"]) == [0, (len(PROMPT) // 4) - 1]
    latest = (await get(cluster, "/decisions?last=1"))["decisions"][0]
    assert latest["predicted_cached_tokens"] is None
    assert (latest["actual_prompt_tokens"], latest["actual_cached_tokens"]) == (17, 5)
    routing = (await get(cluster, "/workers"))["routing"]
    assert routing["answers"] == routing["prediction_outcomes"] == {}
    ids = json.loads((await post(cluster, {"input_ids": [1, 2, 3]}, "/explain"))[1])
    assert (ids["by_text"], ids["tokenised"]) == (False, True)


async def test_nothing_is_fetched_by_text(start):
    info = {"page_size": 4, "memserve": {"instance": "m", "caching": "3", "fetched_page": 4}}
    cluster = await start(colocated=2, policy="cost_model", info=info)
    answering(cluster.colocated)
    await post(cluster, {"text": LONG})
    record = json.loads((await post(cluster, {"text": LONG}, "/explain"))[1])
    assert record["fetch"] is None
    assert {entry["cost"]["plan"] for entry in record["candidates"]} == {"route", "recompute"}


async def test_one_warning_says_that_there_is_no_tokenizer(start, caplog):
    cluster = await start(colocated=1, policy="cache_aware")
    answering(cluster.colocated)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await post(cluster, {"text": PROMPT})
    (warning,) = [record.message for record in caplog.records if "tokenizer" in record.message]
    assert "matched by their text" in warning
    assert "--tokenizer" in warning


async def test_tokens_take_over_once_there_is_a_tokenizer(start, monkeypatch):
    class Letters:
        def text(self, text):
            return np.array([ord(letter) for letter in text], dtype=np.int32)

    monkeypatch.setattr(ModelTokenizer, "load", lambda where: Letters())
    cluster = await start(colocated=1, policy="cache_aware")
    (named,) = (await start(colocated=1, info={"tokenizer_path": "letters"})).colocated
    answering([*cluster.colocated, named])
    assert (await post(cluster, {"text": PROMPT}))[0] == 200
    assert (await post(cluster, {"url": named.url}, "/workers"))[0] == 202
    while not (await get(cluster, "/workers"))["routing"]["tokenizer"]["loaded"]:
        await post(cluster, {"text": PROMPT})
        await asyncio.sleep(0.01)
    await post(cluster, {"text": PROMPT})
    record = json.loads((await post(cluster, {"text": PROMPT}, "/explain"))[1])
    assert (record["by_text"], record["tokenised"], record["prompt_tokens"]) == (False, True, len(PROMPT))
    assert max(entry["cached_tokens"] for entry in record["candidates"]) == len(PROMPT) - 1


async def test_a_name_with_nul_is_refused(start):
    cluster = await start(colocated=1, policy="cache_aware")
    answering(cluster.colocated)
    for field in ("extra_key", "cache_salt", "lora_path"):
        status, raw = await post(cluster, {"text": PROMPT, field: "\0\0\0k"})
        assert status == 400
        assert field in json.loads(raw)["error"]["message"]
    assert not cluster.colocated[0].seen
