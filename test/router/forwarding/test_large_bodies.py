"""Bodies of megabytes, and instances that are slow to read them."""

import json

import pytest


async def post(cluster, body, path="/generate"):
    async with cluster.session.post(cluster.url + path, json=body) as response:
        return response.status, await response.read()


async def workers(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        return {entry["url"]: entry for entry in (await response.json())["workers"]}


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
