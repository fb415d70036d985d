"""Policies at work in a running router: what it learns from answers, charges, forgets and tells."""

import asyncio
import json

import pytest
from router_requests import post

IDS = list(range(1, 201))
TREE = {"policy": "prompt_tree"}


def answering(mocks, prompt=200, cached=0, output_ids=()):
    meta = {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": len(output_ids)}
    answer = json.dumps({"text": "x", "output_ids": list(output_ids), "meta_info": meta})
    for mock in mocks:
        mock.answer = answer.encode()
        mock.chunks = [b'data: {"text": "x"}\n\n', b"data: ", answer.encode() + b"\n\n", b"data: [DONE]\n\n"]


async def get(cluster, path):
    async with cluster.session.get(cluster.url + path) as response:
        return response.status, json.loads(await response.read())


async def loads(cluster):
    _, answer = await get(cluster, "/workers")
    return [(entry["in_flight"], entry["charged_tokens"]) for entry in answer["workers"]]


async def seconds(cluster):
    _, answer = await get(cluster, "/workers")
    return [(entry["charged_seconds"], entry["sending_seconds"]) for entry in answer["workers"]]


async def until_idle(cluster):
    while any(load != (0, 0) for load in await loads(cluster) + await seconds(cluster)):
        await asyncio.sleep(0.01)


def served(mocks):
    return [len(mock.seen) for mock in mocks]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hot_prefix_goes_where_it_is_until_that_dies(start, stream):
    cluster = await start(colocated=3, **TREE)
    answering(cluster.colocated)
    body = {"input_ids": IDS, "stream": stream}
    for number in range(8):
        assert (await post(cluster, {**body, "input_ids": [*IDS, number]}))[0] == 200
    assert sorted(served(cluster.colocated)) == [0, 0, 8]
    await next(mock for mock in cluster.colocated if mock.seen).die()
    statuses = [(await post(cluster, body))[0] for _ in range(5)]
    assert statuses == [200] * 5
    assert sorted(served(cluster.colocated)) == [0, 5, 8]


async def test_a_stream_that_its_client_left_has_left_its_prompt_behind(start):
    cluster = await start(prefill=3, decode=1, **TREE)
    answering(cluster.decode)
    cluster.decode[0].hold_after = 1
    body = {"input_ids": IDS, "stream": True}
    async with cluster.session.post(cluster.url + "/generate", json=body) as response:
        await response.content.readany()
    cluster.decode[0].hold_after = None
    await post(cluster, body)
    assert (await get(cluster, "/decisions?last=1"))[1]["decisions"][0]["predicted_cached_tokens"] == 199
    assert sorted(served(cluster.prefill)) == [0, 0, 2]


async def test_the_next_turn_goes_where_the_answer_was_decoded(start):
    cluster = await start(prefill=3, decode=3, **TREE)
    answering(cluster.decode, output_ids=range(500, 600))
    await post(cluster, {"input_ids": IDS})
    await post(cluster, {"input_ids": [*IDS, *range(500, 600), 7]})
    newest = (await get(cluster, "/decisions?last=1"))[1]["decisions"][0]
    cached = {
        entry["role"]: entry["cached_tokens"] for entry in newest["candidates"] if entry["cached_tokens"]
    }
    assert cached == {"prefill": 200, "decode": 299}
    assert sorted(served(cluster.prefill)) == sorted(served(cluster.decode)) == [0, 0, 2]


async def test_prefill_has_the_answer_too_where_it_is_written_back(start):
    info = {"page_size": 16, "memserve": {"room_per_sample": True, "caching": "3"}}
    cluster = await start(prefill=1, decode=1, info=info, **TREE)
    answering(cluster.decode, output_ids=range(500, 600))
    await post(cluster, {"input_ids": IDS})
    await post(cluster, {"input_ids": [*IDS, *range(500, 600), 7]})
    _, answer = await get(cluster, "/decisions?last=1")
    assert [entry["cached_tokens"] for entry in answer["decisions"][0]["candidates"]] == [288, 288]


async def test_among_those_that_keep_nothing_load_decides(start):
    cluster = await start(prefill=1, decode=2, info={"disable_radix_cache": True}, **TREE)
    answering(cluster.decode)
    for _ in range(40):
        await post(cluster, {"input_ids": IDS})
    assert min(served(cluster.decode)) > 0
    assert (await get(cluster, "/workers"))[1]["routing"]["tree"]["tokens"] == 0


async def test_what_was_flushed_is_not_looked_for(start):
    cluster = await start(colocated=2, **TREE)
    answering(cluster.colocated)
    await post(cluster, {"input_ids": IDS})
    holder = cluster.colocated[0] if cluster.colocated[0].seen else cluster.colocated[1]
    await post(cluster, {}, "/flush_cache")
    await post(cluster, {"input_ids": IDS})
    newest, before = (await get(cluster, "/decisions"))[1]["decisions"]
    assert newest["predicted_cached_tokens"] == before["predicted_cached_tokens"] == 0
    assert holder.url == before["decode"]


async def test_an_answer_from_before_a_flush_is_not_believed(start):
    cluster = await start(colocated=1, **TREE)
    mock = cluster.colocated[0]
    answering([mock])
    mock.hold = True
    request = asyncio.create_task(post(cluster, {"input_ids": IDS}))
    await mock.arrived.wait()
    mock.hold = False
    await post(cluster, {}, "/flush_cache")
    mock.release.set()
    assert (await request)[0] == 200
    await post(cluster, {"input_ids": IDS})
    assert (await get(cluster, "/decisions?last=1"))[1]["decisions"][0]["predicted_cached_tokens"] == 0


async def test_a_refused_request_teaches_nothing(start):
    cluster = await start(colocated=1, **TREE)
    cluster.colocated[0].refusal = (400, b'{"error": {"message": "no"}}')
    assert (await post(cluster, {"input_ids": IDS}))[0] == 400
    assert (await get(cluster, "/workers"))[1]["routing"]["tree"]["tokens"] == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body", [{"text": "héllo", "input_ids": IDS}, {"text": "hi"}, {"input_ids": [[1], [2]]}]
)
async def test_bodies_and_answers_pass_unchanged(start, stream, body):
    cluster = await start(colocated=1, **TREE)
    mock = cluster.colocated[0]
    answering([mock], output_ids=[1, 2])
    raw = json.dumps({**body, "stream": stream, "x": 1.0}, indent=3).encode()
    async with cluster.session.post(cluster.url + "/generate", data=raw) as response:
        assert await response.read() == (b"".join(mock.chunks) if stream else mock.answer)
    assert mock.seen[0][1] == raw


@pytest.mark.parametrize("policy", ["cost_model", "session", "prompt_tree", "least_load", "round_robin"])
@pytest.mark.parametrize(
    "end", ["answer", "stream", "refused", "refused by prefill", "dies", "leaves", "leaves late"]
)
async def test_load_is_released_however_a_request_ends(start, policy, end):
    cluster = await start(prefill=1, decode=1, policy=policy, info={"page_size": 16})
    p, d = cluster.prefill[0], cluster.decode[0]
    answering([d])
    body = {
        "input_ids": IDS,
        "sampling_params": {"max_new_tokens": 50},
        "stream": end in ("stream", "leaves late"),
    }
    if end.startswith("refused"):
        (p if "prefill" in end else d).refusal = (400, b"{}")
        d.hold = "prefill" in end
    held = end in ("dies", "leaves", "leaves late")
    if held:
        d.hold, d.hold_after = True, 1 if end == "leaves late" else None
    request = asyncio.create_task(post(cluster, body))
    if held:
        await asyncio.gather(p.arrived.wait(), d.arrived.wait())
        in_flight, charged = (await loads(cluster))[1]
        assert in_flight == 1
        assert charged > 50
        if end == "dies":
            await d.die()
            assert (await request)[0] == 502
        else:
            request.cancel()
    else:
        assert (await request)[0] == (400 if end.startswith("refused") else 200)
    await until_idle(cluster)


async def test_what_is_charged_is_what_is_left_to_do(start):
    cluster = await start(prefill=1, decode=1, info={"page_size": 16}, **TREE)
    p, d = cluster.prefill[0], cluster.decode[0]
    answering([d])
    body = {"input_ids": IDS, "sampling_params": {"max_new_tokens": 50}}
    await post(cluster, body)
    p.hold = d.hold = True
    p.arrived.clear()
    d.arrived.clear()
    request = asyncio.create_task(post(cluster, body))
    await asyncio.gather(p.arrived.wait(), d.arrived.wait())
    assert await loads(cluster) == [(1, 200 - 192), (1, 250)]
    request.cancel()
    await until_idle(cluster)


async def test_a_session_sticks_to_its_pair(start):
    cluster = await start(prefill=3, decode=3, policy="session")
    for number in range(6):
        await post(cluster, {"text": f"turn {number}", "session_id": "s"})
    assert sorted(served(cluster.prefill)) == sorted(served(cluster.decode)) == [0, 0, 6]
    await next(mock for mock in cluster.prefill if mock.seen).die()
    for number in range(5):
        assert (await post(cluster, {"text": f"turn {number}", "session_id": "s"}))[0] == 200
    assert sorted(served(cluster.prefill)) == [0, 5, 6]
    # The decode instance has not moved.
    assert sorted(served(cluster.decode))[:2] == [0, 0]


async def test_decisions_tell_what_was_known_and_what_came_of_it(start):
    cluster = await start(colocated=2, info={"page_size": 16}, **TREE)
    answering(cluster.colocated, cached=190)
    for _ in range(2):
        await post(cluster, {"input_ids": IDS})
    _, answer = await get(cluster, "/decisions?last=5")
    newest, first = answer["decisions"]
    assert newest["time"] >= first["time"] > 1e9
    assert (newest["policy"], newest["path"], newest["prefill"]) == ("prompt_tree", "/generate", None)
    assert (first["predicted_cached_tokens"], newest["predicted_cached_tokens"]) == (0, 192)
    assert (newest["prompt_tokens"], newest["actual_prompt_tokens"], newest["actual_cached_tokens"]) == (
        200,
        200,
        190,
    )
    assert newest["decode"] == first["decode"]
    assert {entry["url"]: entry["cached_tokens"] for entry in newest["candidates"]} == {
        mock.url: 192 if mock.seen else 0 for mock in cluster.colocated
    }
    routing = (await get(cluster, "/workers"))[1]["routing"]
    assert routing["policy"] == "prompt_tree"
    assert routing["tokenising"] == {"tokenised": 2}
    assert routing["answers"] == {
        "prompt_tokens_equal": 2,
        "cached_tokens_predicted": 192,
        "cached_tokens_actual": 380,
    }


async def test_a_count_of_tokens_that_differs_from_the_engines_is_counted(start):
    cluster = await start(colocated=1, **TREE)
    answering(cluster.colocated, prompt=201)
    await post(cluster, {"input_ids": IDS})
    assert (await get(cluster, "/workers"))[1]["routing"]["answers"]["prompt_tokens_different"] == 1


async def test_decisions_are_bounded_and_the_number_asked_for_is_checked(start):
    cluster = await start(colocated=1, decisions_kept=3)
    for _ in range(5):
        await post(cluster, {"text": "hi"})
    assert len((await get(cluster, "/decisions?last=999999999999"))[1]["decisions"]) == 3
    assert len((await get(cluster, "/decisions?last=1"))[1]["decisions"]) == 1
    status, answer = await get(cluster, "/decisions?last=-1")
    assert status == 400
    assert "'-1'" in answer["error"]["message"]


async def test_sglang_routers_name_for_it_is_said_to_be_another_here(start, caplog):
    caplog.set_level("INFO")
    cluster = await start(colocated=2, policy="cache_aware")
    answering(cluster.colocated)
    for _ in range(4):
        await post(cluster, {"input_ids": IDS})
    assert sorted(served(cluster.colocated)) == [0, 4]
    assert "cache_aware of sglang_router is prompt_tree here" in caplog.text


async def test_a_stream_that_begins_with_its_failure_teaches_nothing(start):
    cluster = await start(colocated=1, disable_retries=True, **TREE)
    failed = b'data: {"error": {"message": "the queue is full", "code": 503}}\n\ndata: [DONE]\n\n'
    cluster.colocated[0].chunks = [failed]
    assert (await post(cluster, {"input_ids": IDS, "stream": True}))[1] == failed
    _, answer = await post(cluster, {"input_ids": IDS}, "/explain")
    assert json.loads(answer)["candidates"][0]["cached_tokens"] == 0


@pytest.mark.parametrize("policy", ["session", "manual"])
async def test_a_routing_key_in_the_header_names_the_session(start, policy):
    """As sglang_router's `manual` has it; a session that the body names comes first."""
    cluster = await start(colocated=4, policy=policy)

    async def instances(body, keys):
        seen = served(cluster.colocated)
        for key in keys:
            headers = {"X-SMG-Routing-Key": key}
            async with cluster.session.post(cluster.url + "/generate", json=body, headers=headers) as answer:
                assert answer.status == 200
        return sum(now > before for now, before in zip(served(cluster.colocated), seen, strict=True))

    assert await instances({"text": "hi"}, ["a"] * 8) == 1
    assert await instances({"text": "hi"}, [str(number) for number in range(32)]) == 4
    assert await instances({"text": "hi", "session_id": "s"}, [str(number) for number in range(8)]) == 1
