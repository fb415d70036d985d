"""Requests on a prefill/decode pair, over real sockets."""

import asyncio
import json

import pytest
from router_requests import post

SINGLE = {"text": "hi", "sampling_params": {"max_new_tokens": 4}}
STREAM = {**SINGLE, "stream": True}


async def workers(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        return {entry["url"]: entry for entry in (await response.json())["workers"]}


async def test_both_halves_get_the_same_body_with_a_room_of_their_own(pd):
    for _ in range(20):
        assert (await post(pd, SINGLE))[0] == 200
    assert pd.p.bodies == pd.d.bodies
    rooms = [body["bootstrap_room"] for body in pd.d.bodies]
    assert len(set(rooms)) == 20
    assert all(0 < room < 2**63 for room in rooms)
    assert {(body["bootstrap_host"], body["bootstrap_port"]) for body in pd.d.bodies} == {("127.0.0.1", 8998)}


async def test_a_clients_bootstrap_fields_are_replaced_and_all_others_kept(pd):
    own = {
        **SINGLE,
        "kv_hints": {"protocol_version": "1", "actions": [1.5, None]},
        "cache_salt": "säit",
        "extra_key": "k",
        "custom_params": {"deep": [{"er": True}]},
        "no_such_field": -0.1,
    }
    await post(pd, {**own, "bootstrap_room": 0, "bootstrap_host": "evil", "bootstrap_pair_key": "x"})
    (got,) = pd.d.bodies
    assert got["bootstrap_room"] != 0
    assert got["bootstrap_host"] == "127.0.0.1"
    assert "bootstrap_pair_key" not in got
    assert {name: got[name] for name in own} == own
    assert {name for name in got if not name.startswith("bootstrap_")} == {*own, "rid"}


async def test_numbers_that_only_python_reads_survive(pd):
    raw = b'{"text": "hi", "big": 123456789012345678901234567890, "nan": NaN}'
    async with pd.session.post(pd.url + "/generate", data=raw) as response:
        assert response.status == 200
    assert b"123456789012345678901234567890" in pd.d.seen[0][1]
    assert b"NaN" in pd.d.seen[0][1]


async def test_without_a_bootstrap_port_the_decode_side_decides(start):
    cluster = await start(prefill=1, decode=1, bootstrap_port=None)
    await post(cluster, SINGLE)
    assert cluster.decode[0].bodies[0]["bootstrap_port"] is None


@pytest.mark.parametrize(
    ("path", "body", "size"),
    [
        ("/generate", {"text": ["a", "b", "c"]}, 3),
        ("/generate", {"text": ["a"]}, 1),
        ("/generate", {"input_ids": [[1, 2], [3]]}, 2),
        ("/generate", {"input_ids": [1, 2, 3]}, None),
        ("/generate", {"input_embeds": [[0.1], [0.2]]}, None),
        ("/generate", {"input_embeds": [[[0.1]], [[0.2]]]}, 2),
        ("/v1/completions", {"prompt": ["a", "b"]}, 2),
        ("/v1/completions", {"prompt": [[1], [2]]}, 2),
        ("/v1/completions", {"prompt": [1, 2]}, None),
        ("/v1/completions", {"prompt": "a"}, None),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, None),
    ],
)
async def test_a_batch_gets_a_room_for_each_prompt(pd, path, body, size):
    await post(pd, body, path)
    got = pd.p.bodies[0]
    if size is None:
        assert isinstance(got["bootstrap_room"], int)
        return
    assert len(set(got["bootstrap_room"])) == size
    assert got["bootstrap_host"] == ["127.0.0.1"] * size
    assert got["bootstrap_port"] == [8998] * size


async def test_the_client_gets_what_decode_says(pd):
    assert await post(pd, SINGLE) == (200, pd.d.answer)


async def test_a_stream_passes_byte_for_byte(pd):
    async with pd.session.post(pd.url + "/generate", json=STREAM) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert await response.read() == b"".join(pd.d.chunks)


@pytest.mark.parametrize("failing", ["p", "d"])
@pytest.mark.parametrize("body", [SINGLE, STREAM], ids=["single", "stream"])
async def test_the_first_half_to_refuse_ends_the_other(pd, failing, body):
    refusing, waiting = (pd.p, pd.d) if failing == "p" else (pd.d, pd.p)
    refusing.refusal = (400, b'{"error": {"message": "too long"}}')
    waiting.hold = True
    async with pd.session.post(pd.url + "/generate", json=body) as response:
        assert (response.status, await response.read()) == refusing.refusal
        assert response.headers["X-From"] == "mock"
    await waiting.aborted.wait()
    assert all(entry["in_flight"] == 0 for entry in (await workers(pd)).values())


@pytest.mark.parametrize("dying", ["p", "d"])
@pytest.mark.parametrize("body", [SINGLE, STREAM], ids=["single", "stream"])
async def test_the_first_half_to_die_ends_the_other(pd, dying, body):
    victim, waiting = (pd.p, pd.d) if dying == "p" else (pd.d, pd.p)
    victim.hold = waiting.hold = True
    request = asyncio.create_task(post(pd, body))
    await asyncio.gather(victim.arrived.wait(), waiting.arrived.wait())
    await victim.die()
    status, answer = await request
    assert status == 502
    assert victim.url in json.loads(answer)["error"]["message"]
    assert json.loads(answer)["error"]["code"] == 502
    await waiting.aborted.wait()


async def test_prefill_dying_after_decodes_headers_is_an_error(pd):
    pd.p.hold, pd.d.hold_after = True, 0
    request = asyncio.create_task(post(pd, STREAM))
    await asyncio.gather(pd.p.arrived.wait(), pd.d.arrived.wait())
    await pd.p.die()
    assert (await request)[0] == 502
    await pd.d.aborted.wait()


async def test_decode_dying_in_mid_stream_ends_it_with_an_error_event(pd):
    pd.d.hold_after, pd.p.hold = 2, True
    async with pd.session.post(pd.url + "/generate", json=STREAM) as response:
        got = b""
        while got != b"".join(pd.d.chunks[:2]):
            got += await response.content.readany()
        await pd.d.die()
        got += await response.read()
    first, torn, error, done, rest = got.split(b"\n\n")
    assert (first, torn) == (b'data: {"text": "a"}', b'data: {"text": ')
    assert pd.d.url in json.loads(error.removeprefix(b"data: "))["error"]["message"]
    assert (done, rest) == (b"data: [DONE]", b"")
    await pd.p.aborted.wait()


async def test_prefill_failing_after_decode_began_changes_nothing(pd):
    pd.p.hold, pd.d.hold_after = True, 1
    async with pd.session.post(pd.url + "/generate", json=STREAM) as response:
        got = await response.content.readany()
        await pd.p.die()
        pd.d.release.set()
        assert got + await response.read() == b"".join(pd.d.chunks)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"text":"","meta_info":{"finish_reason":{"type":"abort","status_code":500}}}',
        b'data: {"error":{"message":"no memory","code":400}}',
    ],
)
async def test_prefill_reporting_failure_inside_its_stream_ends_decode(pd, event):
    pd.p.chunks = [event[:30], event[30:] + b"\n\n"]
    pd.d.hold = True
    status, answer = await post(pd, STREAM)
    assert (status, answer) == (200, event + b"\n\ndata: [DONE]\n\n")
    await pd.d.aborted.wait()


@pytest.mark.parametrize("body", [SINGLE, STREAM], ids=["single", "stream"])
async def test_a_client_that_leaves_while_waiting_aborts_both(pd, body):
    pd.p.hold = pd.d.hold = True
    request = asyncio.create_task(post(pd, body))
    await asyncio.gather(pd.p.arrived.wait(), pd.d.arrived.wait())
    request.cancel()
    await asyncio.gather(pd.p.aborted.wait(), pd.d.aborted.wait())
    assert all(entry["in_flight"] == 0 for entry in (await workers(pd)).values())


async def test_a_client_that_leaves_in_mid_stream_aborts_both(pd):
    pd.p.hold, pd.d.hold_after = True, 2
    async with pd.session.post(pd.url + "/generate", json=STREAM) as response:
        await response.content.readany()
    await asyncio.gather(pd.p.aborted.wait(), pd.d.aborted.wait())


async def test_an_answer_that_comes_before_prefills_own_lets_prefill_finish(pd):
    pd.p.hold = True
    assert (await post(pd, SINGLE))[0] == 200
    pd.p.release.set()
    assert (await post(pd, SINGLE))[0] == 200
    assert not pd.p.aborted.is_set()


@pytest.mark.parametrize("raw", [b'{"text": ', b'["text"]', b"", b"\xff\xfe", b'{"a":' * 100_000])
async def test_what_is_no_json_object_goes_to_one_instance_as_it_is(pd, raw):
    pd.d.refusal = (400, b'{"message": "json_invalid"}')
    headers = {"Content-Type": "application/json"}
    async with pd.session.post(pd.url + "/generate", data=raw, headers=headers) as response:
        assert (response.status, await response.read()) == pd.d.refusal
    assert [seen[1] for seen in pd.d.seen] == [raw]
    assert pd.p.seen == []


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


SAMPLES = {"memserve": {"room_per_sample": True}}
N = {"prompt": "a", "n": 2}


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


@pytest.mark.parametrize("sent", [{"model": "m"}, {}])
async def test_a_refusal_that_quotes_the_body_quotes_the_clients(pd, sent):
    def quote(raw):
        return 400, json.dumps({"message": f"missing: {json.loads(raw) | {'tool_choice': 'none'}}"}).encode()

    pd.p.refusal = pd.d.refusal = quote
    async with pd.session.post(f"{pd.url}/v1/completions", json=sent) as response:
        assert response.status == 400
        assert await response.json() == json.loads(quote(json.dumps(sent))[1])


async def test_an_instance_that_goes_silent_is_named(start):
    cluster = await start(prefill=1, decode=1, request_timeout_secs=0.2)
    cluster.decode[0].hold = True
    status, answer = await post(cluster, SINGLE)
    assert status == 504
    assert cluster.decode[0].url in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize("deaf", ["prefill", "decode"])
async def test_an_instance_that_does_not_read_a_large_body_is_named(start, deaf):
    cluster = await start(prefill=1, decode=1, request_timeout_secs=0.5)
    mock = getattr(cluster, deaf)[0]
    other = cluster.decode[0] if deaf == "prefill" else cluster.prefill[0]
    mock.deaf, other.read_pause = True, 0.03
    status, answer = await post(cluster, {"text": "x" * (32 << 20)})
    assert status == 504
    assert mock.url in json.loads(answer)["error"]["message"]
    assert all(entry["in_flight"] == 0 for entry in (await workers(cluster)).values())


async def test_an_instance_that_reads_a_large_body_slowly_is_waited_for(start):
    cluster = await start(prefill=1, decode=1, request_timeout_secs=0.5)
    cluster.decode[0].read_pause = 0.03
    assert (await post(cluster, {"text": "x" * (32 << 20)}))[0] == 200


async def test_large_bodies_have_a_length_and_share_a_connection(pd):
    for size in (10, 1 << 20, 1 << 20, 10):
        assert (await post(pd, {"text": "x" * size}))[0] == 200
    for mock in (pd.p, pd.d):
        assert all(int(headers["Content-Length"]) == len(raw) for _, raw, headers in mock.seen)
        assert not any("Transfer-Encoding" in headers for _, _, headers in mock.seen)
        assert len(mock.connections) == 1


async def test_an_instance_that_refuses_a_large_body_before_it_has_come_is_heard(pd):
    pd.p.refuses_unread = True
    pd.d.hold = True
    assert await post(pd, {"text": "x" * (8 << 20)}) == (400, b"unread")


async def test_headers_that_the_client_names_as_its_connections_stay_behind(pd):
    headers = {"Connection": "keep-alive, X-Hop", "X-Hop": "1", "X-End": "2"}
    async with pd.session.post(pd.url + "/generate", json=SINGLE, headers=headers) as response:
        assert response.status == 200
    for mock in (pd.p, pd.d):
        assert "X-Hop" not in mock.seen[0][2]
        assert mock.seen[0][2]["X-End"] == "2"


async def test_headers_reach_both_halves_except_what_overrides_a_room(pd):
    headers = {"Authorization": "Bearer t", "X-Override-Bootstrap-Room": "7", "traceparent": "00-1"}
    async with pd.session.post(pd.url + "/generate?a=b", json=SINGLE, headers=headers) as response:
        assert response.status == 200
    for mock in (pd.p, pd.d):
        target, _, got = mock.seen[0]
        assert target == "/generate?a=b"
        assert (got["Authorization"], got["traceparent"]) == ("Bearer t", "00-1")
        assert got["Content-Type"] == "application/json"
        assert "X-Override-Bootstrap-Room" not in got


async def test_eight_at_once_do_not_mix(pd):
    async def post_number(number):
        return await post(pd, {**SINGLE, "text": str(number)})

    answers = await asyncio.gather(*(post_number(n) for n in range(8)))
    assert {status for status, _ in answers} == {200}
    assert {body["bootstrap_room"]: body["text"] for body in pd.p.bodies} == {
        body["bootstrap_room"]: body["text"] for body in pd.d.bodies
    }
