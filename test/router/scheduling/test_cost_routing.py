"""The cost model at work in a running router: hints in bodies, charges, records, what it learns."""

import asyncio
import json

import pytest

IDS = list(range(1, 4097))
MEMSERVE = {"room_per_sample": True, "caching": "3", "instance": "10.0.0.9:1"}
# Each request is tried once, so that a test sees by its answer where it went.
COST = {
    "policy": "cost_model",
    "disable_retries": True,
    "info": {"page_size": 16, "device": "cuda", "memserve": MEMSERVE},
}


def answering(mocks, cached=None):
    meta = {"prompt_tokens": len(IDS), "completion_tokens": 1}
    meta |= {} if cached is None else {"cached_tokens": cached}
    record = json.dumps({"text": "x", "output_ids": [7], "meta_info": meta})
    for mock in mocks:
        mock.answer = record.encode()
        mock.chunks = [b'data: {"text": "x"}\n\n', b"data: ", record.encode() + b"\n\n", b"data: [DONE]\n\n"]


async def post(cluster, body, path="/generate"):
    async with cluster.session.post(cluster.url + path, json=body) as response:
        return response.status, json.loads(await response.read())


async def workers(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        return json.loads(await response.read())


async def decisions(cluster, last=1):
    async with cluster.session.get(f"{cluster.url}/decisions?last={last}") as response:
        return json.loads(await response.read())["decisions"]


async def seconds(cluster):
    return [entry["charged_seconds"] for entry in (await workers(cluster))["workers"]]


async def until(condition):
    while not await condition():
        await asyncio.sleep(0.005)


def payload_of(body):
    return body["kv_hints"]["actions"][0]["payload"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"input_ids": IDS}),
        ("/v1/completions", {"prompt": IDS, "max_tokens": 8}),
    ],
)
async def test_prefill_gets_the_fetch_hint_and_decode_does_not(start, path, body):
    cluster = await start(prefill=2, decode=1, **COST)
    answering(cluster.decode)
    assert (await post(cluster, body, path))[0] == 200
    holder, other = sorted(cluster.prefill, key=lambda mock: -len(mock.seen))
    assert cluster.decode[0].bodies[0] == holder.bodies[0]
    assert not {"kv_hints", "custom_params"} & set(holder.bodies[0])
    await holder.die()
    assert [(await post(cluster, body, path))[0] for _ in range(2)] == [502, 200]
    mine, decodes = other.bodies[-1], cluster.decode[0].bodies[-1]
    payload = payload_of(mine) if path == "/generate" else mine["custom_params"]["memserve.fetch"]
    assert payload == {**payload, "from": "10.0.0.9:1", "role": "prefill", "tokens": 4080}
    assert 1 < payload["deadline_ms"] < 1000
    assert {name: mine[name] for name in decodes} == decodes
    assert not {"kv_hints", "custom_params"} & set(decodes)
    (record,) = await decisions(cluster)
    assert record["fetch"] == {
        "source": cluster.decode[0].url,
        "tokens": 4080,
        "deadline_ms": pytest.approx(payload["deadline_ms"], abs=0.01),
    }
    prices = {entry["url"]: entry["cost"] for entry in record["candidates"]}
    assert (prices[other.url]["plan"], prices[other.url]["source"]) == ("fetch", cluster.decode[0].url)


async def test_a_colocated_instance_gets_the_hint_when_the_holder_is_busy(start):
    cluster = await start(colocated=2, **COST)
    answering(cluster.colocated)
    await post(cluster, {"input_ids": IDS})
    holder, other = sorted(cluster.colocated, key=lambda mock: -len(mock.seen))
    holder.hold = other.hold = True
    waiting = [asyncio.create_task(post(cluster, {"input_ids": IDS})) for _ in range(60)]
    await other.arrived.wait()
    assert payload_of(other.bodies[0]) == {**payload_of(other.bodies[0]), "role": "colocated", "tokens": 4080}
    assert all("kv_hints" not in body for body in holder.bodies)
    holder.hold = other.hold = False
    holder.release.set()
    other.release.set()
    assert {status for status, _ in await asyncio.gather(*waiting)} == {200}
    # Both served the burst, and nothing is left of what they were charged.
    assert min(len(mock.seen) for mock in cluster.colocated) > 1
    assert await seconds(cluster) == [0, 0]


async def test_a_clients_own_hint_is_kept(start):
    cluster = await start(prefill=2, decode=1, **COST)
    answering(cluster.decode)
    action = {
        "action_id": "1",
        "action_version": "1",
        "action_type": "memserve.fetch",
        "payload": {"from": "y"},
    }
    hints = {"protocol_version": "1", "message_id": "1", "actions": [action]}
    body = {"input_ids": IDS, "kv_hints": hints}
    await post(cluster, body)
    holder, other = sorted(cluster.prefill, key=lambda mock: -len(mock.seen))
    await holder.die()
    await post(cluster, body)
    await post(cluster, body)
    assert other.bodies[-1]["kv_hints"] == cluster.decode[0].bodies[-1]["kv_hints"] == hints


async def test_a_refusal_that_quotes_the_body_does_not_quote_the_hint(start):
    cluster = await start(prefill=2, decode=1, **COST)
    answering(cluster.decode)
    body = {"input_ids": IDS}
    await post(cluster, body)
    holder, other = sorted(cluster.prefill, key=lambda mock: -len(mock.seen))
    await holder.die()
    await post(cluster, body)
    cluster.decode[0].hold = True
    other.refusal = lambda raw: (400, json.dumps({"message": f"{json.loads(raw)}"}).encode())
    status, record = await post(cluster, body)
    assert (status, record) == (400, {"message": str(body)})
    assert "kv_hints" in other.bodies[-1]


async def test_a_stream_that_has_begun_has_no_prefill_before_it(start):
    cluster = await start(colocated=1, **COST)
    answering(cluster.colocated)
    mock = cluster.colocated[0]
    mock.hold_after = 0
    request = asyncio.create_task(post_stream(cluster, mock))
    await mock.arrived.wait()
    assert (await seconds(cluster))[0] > 0
    mock.hold_after = 1
    mock.release.set()
    mock.release.clear()
    assert await request
    assert (await seconds(cluster))[0] == 0


async def post_stream(cluster, mock):
    body = {"input_ids": IDS, "stream": True}
    async with cluster.session.post(cluster.url + "/generate", json=body) as response:
        await response.content.readany()
        record = (await workers(cluster))["workers"][0]
        return record["in_flight"] == 1 and record["charged_seconds"] == 0


async def test_without_a_stream_prefill_is_taken_to_be_over_when_predicted(start):
    cluster = await start(colocated=1, **COST)
    mock = cluster.colocated[0]
    answering([mock])
    mock.hold = True
    request = asyncio.create_task(post(cluster, {"input_ids": IDS}))
    await mock.arrived.wait()
    assert (await seconds(cluster))[0] > 0

    async def over():
        return (await seconds(cluster))[0] == 0

    await until(over)
    assert (await workers(cluster))["workers"][0]["in_flight"] == 1
    mock.release.set()
    await request
    assert await seconds(cluster) == [0]


async def test_prefill_is_charged_until_its_leg_ends_and_decode_never(start):
    cluster = await start(prefill=1, decode=1, **COST)
    p, d = cluster.prefill[0], cluster.decode[0]
    answering([d])
    p.hold = d.hold = True
    request = asyncio.create_task(post(cluster, {"input_ids": IDS}))
    await asyncio.gather(p.arrived.wait(), d.arrived.wait())
    charged = await seconds(cluster)
    assert charged[0] > 0 == charged[1]
    p.release.set()

    async def prefilled():
        return await seconds(cluster) == [0, 0]

    await until(prefilled)
    assert (await workers(cluster))["workers"][1]["in_flight"] == 1
    d.release.set()
    assert (await request)[0] == 200


async def test_a_source_is_charged_with_what_it_sends(start):
    cluster = await start(prefill=2, decode=1, **COST)
    answering(cluster.decode)
    await post(cluster, {"input_ids": IDS})
    holder, other = sorted(cluster.prefill, key=lambda mock: -len(mock.seen))
    await holder.die()
    await post(cluster, {"input_ids": IDS})
    other.hold = cluster.decode[0].hold = True
    request = asyncio.create_task(post(cluster, {"input_ids": IDS}))
    await other.arrived.wait()
    assert [entry["sending_seconds"] > 0 for entry in (await workers(cluster))["workers"]] == [
        False,
        False,
        True,
    ]
    request.cancel()

    async def idle():
        return all(
            entry["sending_seconds"] == entry["in_flight"] == 0
            for entry in (await workers(cluster))["workers"]
        )

    await until(idle)


async def test_predicted_and_measured_prefill_are_recorded_and_learned_from(start):
    cluster = await start(prefill=1, decode=1, **COST)
    p, d = cluster.prefill[0], cluster.decode[0]
    answering([d], cached=0)
    p.hold, d.hold = True, True
    request = asyncio.create_task(post(cluster, {"input_ids": IDS}))
    await asyncio.gather(p.arrived.wait(), d.arrived.wait())
    await asyncio.sleep(0.1)
    p.release.set()

    async def prefilled():
        return (await seconds(cluster))[0] == 0

    await until(prefilled)
    d.release.set()
    await request
    (record,) = await decisions(cluster)
    mine, decodes = (entry["cost"] for entry in record["candidates"])
    assert record["actual_prefill_ms"] > 100
    parts = sum(mine[name] for name in ("queue_ms", "fetch_ms", "exec_ms", "sending_ms"))
    assert record["predicted_prefill_ms"] == pytest.approx(parts, abs=0.01)
    assert mine["total_ms"] == pytest.approx(parts + mine["decoding_ms"], abs=0.01)
    assert (mine["plan"], decodes["plan"], decodes["exec_ms"]) == ("recompute", None, None)
    residuals = (await workers(cluster))["routing"]["residuals"]
    assert list(residuals) == [p.url]
    assert residuals[p.url]["observations"] == 1
    assert residuals[p.url]["factor"] != 1


@pytest.mark.parametrize("case", ["cached otherwise", "company", "not streamed"])
async def test_what_says_nothing_of_an_instances_speed_is_not_learned_from(start, case):
    cluster = await start(colocated=1, **COST)
    mock = cluster.colocated[0]
    answering([mock], cached=4000 if case == "cached otherwise" else 0)
    body = {"input_ids": IDS, "stream": case != "not streamed"}
    mock.hold = True
    count = 2 if case == "company" else 1
    requests = [asyncio.create_task(read(cluster, body)) for _ in range(count)]
    while len(mock.seen) < count:
        await asyncio.sleep(0.005)
    mock.release.set()
    await asyncio.gather(*requests)
    residuals = (await workers(cluster))["routing"]["residuals"]
    assert sum(entry["observations"] for entry in residuals.values()) == 0


async def read(cluster, body):
    async with cluster.session.post(cluster.url + "/generate", json=body) as response:
        await response.read()


@pytest.mark.parametrize("policy", ["cost_model", "least_load"])
async def test_explain_tells_what_would_be_done_and_does_nothing(start, policy):
    cluster = await start(prefill=1, decode=1, colocated=1, **{**COST, "policy": policy})
    status, record = await post(cluster, {"input_ids": IDS}, "/explain")
    assert status == 200
    assert (record["policy"], record["path"]) == (policy, "/generate")
    # Without tokens, a guess.
    assert (record["prompt_tokens"] == 4096) == record["tokenised"] == (policy == "cost_model")
    assert [entry["role"] for entry in record["candidates"]] == ["prefill", "decode", "colocated"]
    assert all((entry["cost"] is None) == (policy == "least_load") for entry in record["candidates"])
    assert record["decode"] in {mock.url for mock in cluster.decode + cluster.colocated}
    assert not any(mock.seen for mock in cluster.prefill + cluster.decode + cluster.colocated)
    assert await decisions(cluster) == []
    assert await seconds(cluster) == [0, 0, 0]


async def test_explain_knows_whose_body_it_is_and_refuses_what_is_none(start):
    cluster = await start(colocated=1, **COST)
    for body, path in (
        ({"messages": [{"role": "user", "content": "hi"}]}, "/v1/chat/completions"),
        ({"prompt": "hi"}, "/v1/completions"),
        ({"text": "hi"}, "/generate"),
    ):
        assert (await post(cluster, body, "/explain"))[1]["path"] == path
    status, record = await post(cluster, [1], "/explain")
    assert status == 400
    assert "JSON object" in record["error"]["message"]
    await cluster.colocated[0].die()
    await post(cluster, {"text": "hi"})
    assert (await post(cluster, {"text": "hi"}, "/explain"))[0] == 503


async def test_what_an_instance_tells_is_what_it_is_priced_by(start, caplog):
    caplog.set_level("INFO")
    info = {**COST["info"], "model_path": "/nowhere/model"}
    cluster = await start(colocated=2, policy="cost_model", info=info)
    for _ in range(3):
        await post(cluster, {"input_ids": IDS})
    said = [entry.getMessage() for entry in caplog.records if "/nowhere/model" in entry.getMessage()]
    assert sum("priced as a dense model" in line for line in said) == 1
