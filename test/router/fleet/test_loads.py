"""/v1/loads of many instances as one."""

import json

import pytest

from router.fleet.loads import summed_up


def load(running, used, total, usage, **sections):
    return {
        "timestamp": running,
        "dp_rank": 0,
        "num_running_reqs": running,
        "num_used_tokens": used,
        "max_total_num_tokens": total,
        "token_usage": usage,
        "decode_moments": None,
        **sections,
    }


def answer(*loads, **more):
    return {
        "timestamp": "t",
        "version": "1",
        "accelerator": "X",
        "num_accelerators": 2,
        "loads": [*loads],
        **more,
    }


def test_counters_add_up_and_ratios_are_weighted_by_the_pool():
    total = summed_up([answer(load(1, 10, 100, 0.5)), answer(load(2, 20, 300, 0.1), load(4, 0, 0, 0.9))])
    (merged,) = total["loads"]
    assert (merged["num_running_reqs"], merged["num_used_tokens"], merged["max_total_num_tokens"]) == (
        7,
        30,
        400,
    )
    assert merged["token_usage"] == pytest.approx(0.2)
    assert (merged["dp_rank"], merged["timestamp"], merged["decode_moments"]) == (0, 4, None)
    assert (total["version"], total["accelerator"], total["num_accelerators"]) == ("1", "X", 6)


def test_sections_are_summed_up_by_those_who_have_them():
    p = load(1, 1, 1, 1, disaggregation={"mode": "prefill", "prefill_inflight_queue_reqs": 3})
    d = load(1, 1, 1, 1, disaggregation={"mode": "decode", "prefill_inflight_queue_reqs": 1}, lora={"a": 2})
    (merged,) = summed_up([answer(p), answer(d)])["loads"]
    assert merged["disaggregation"] == {"mode": None, "prefill_inflight_queue_reqs": 4}
    assert merged["lora"] == {"a": 2}


def test_what_differs_or_makes_no_sense_is_null_and_nothing_fails():
    odd = {"loads": [{"num_running_reqs": "many", "x": True}, 5], "num_accelerators": None}
    total = summed_up([answer(load(1, 1, 1, 1)), odd, {"loads": 3}])
    assert (total["version"], total["num_accelerators"]) == (None, 2)
    assert total["loads"][0]["num_running_reqs"] is None


async def ask(cluster, path="/v1/loads"):
    async with cluster.session.get(cluster.url + path) as response:
        return response.status, json.loads(await response.read())


async def test_the_router_gives_the_sum_and_each_instances_own(start):
    cluster = await start(prefill=1, decode=2)
    mocks = (*cluster.prefill, *cluster.decode)
    for number, mock in enumerate(mocks, 1):
        mock.answer = json.dumps(answer(load(number, 0, 100, 0))).encode()
    status, total = await ask(cluster, "/v1/loads?include=core")
    assert status == 200
    assert total["loads"][0]["num_running_reqs"] == 6
    assert [(entry["url"], entry["role"]) for entry in total["instances"]] == [
        (mock.url, role) for mock, role in zip(mocks, ("prefill", "decode", "decode"), strict=True)
    ]
    assert [entry["loads"][0]["num_running_reqs"] for entry in total["instances"]] == [1, 2, 3]
    assert [mock.seen[0][0] for mock in mocks] == ["/v1/loads?include=core"] * 3


async def test_who_does_not_tell_is_named_and_the_rest_summed_up(start):
    cluster = await start(colocated=3)
    for mock in cluster.colocated:
        mock.answer = json.dumps(answer(load(1, 0, 100, 0))).encode()
    cluster.colocated[1].refusal = (500, b"broken")
    await cluster.colocated[2].die()
    status, total = await ask(cluster)
    assert (status, total["loads"][0]["num_running_reqs"]) == (200, 1)
    assert "500: broken" in total["instances"][1]["error"]
    assert "error" in total["instances"][2]


async def test_what_all_refuse_is_answered_in_their_words(start):
    cluster = await start(colocated=2)
    for mock in cluster.colocated:
        mock.refusal = (400, b'{"detail": "Invalid include sections"}')
    assert await ask(cluster, "/v1/loads?include=x") == (400, {"detail": "Invalid include sections"})


async def test_another_format_is_refused(start):
    cluster = await start(colocated=1)
    status, answer = await ask(cluster, "/v1/loads?format=prometheus")
    assert status == 400
    assert "prometheus" in answer["error"]["message"]
