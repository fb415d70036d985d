"""What the two halves of a prefill/decode pair get, and what the client gets of them, over real sockets."""

import asyncio

import pytest
from router_requests import post

SINGLE = {"text": "hi", "sampling_params": {"max_new_tokens": 4}}
STREAM = {**SINGLE, "stream": True}


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


async def test_headers_that_the_client_names_as_its_connections_stay_behind(pd):
    headers = {"Connection": "keep-alive, X-Hop", "X-Hop": "1", "X-Correlation-Id": "2"}
    async with pd.session.post(pd.url + "/generate", json=SINGLE, headers=headers) as response:
        assert response.status == 200
    for mock in (pd.p, pd.d):
        assert "X-Hop" not in mock.seen[0][2]
        assert mock.seen[0][2]["X-Correlation-Id"] == "2"


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
