"""A prompt of no tokens is refused before anything is dispatched: SGLang's schedulers end with it."""

import json

import pytest
from router_requests import post


@pytest.mark.parametrize("policy", ["prompt_tree", "round_robin"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"input_ids": []}),
        ("/generate", {"input_ids": [[1, 2, 3], []]}),
        ("/generate", {"input_ids": [[]], "stream": True}),
        ("/v1/completions", {"model": "m", "prompt": [[5], []]}),
        ("/v1/completions", {"model": "m", "prompt": []}),
    ],
)
async def test_the_router_refuses_ids_that_are_none(start, policy, path, body):
    cluster = await start(prefill=1, decode=1, policy=policy)
    status, answer = await post(cluster, body, path)
    assert status == 400
    assert "no tokens" in json.loads(answer)["error"]["message"]
    assert not cluster.prefill[0].seen
    assert not cluster.decode[0].seen
    assert (await post(cluster, {"input_ids": [1]}))[0] == 200
