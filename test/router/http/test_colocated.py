"""Requests on colocated instances, alone and beside prefill/decode pairs."""

import asyncio
import contextlib
import json
from collections import Counter

import pytest

BODY = {"text": "hi"}


async def post(cluster, body=None, path="/generate", **kwargs):
    async with cluster.session.post(cluster.url + path, json=body or BODY, **kwargs) as response:
        return response.status, await response.read()


async def test_the_body_is_forwarded_byte_for_byte(start):
    cluster = await start(colocated=1)
    raw = b'{ "text":"hi",  "temperature" : 1.0, "x": NaN }'
    async with cluster.session.post(cluster.url + "/generate", data=raw) as response:
        assert await response.read() == cluster.colocated[0].answer
    assert cluster.colocated[0].seen[0][1] == raw


async def test_a_clients_bootstrap_fields_are_dropped(start):
    cluster = await start(colocated=1)
    await post(cluster, {**BODY, "bootstrap_room": 5, "bootstrap_host": "x"})
    assert cluster.colocated[0].bodies == [BODY]


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
async def test_each_generation_endpoint_streams(start, path):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    assert await post(cluster, {"stream": True}, path) == (200, b"".join(mock.chunks))
    assert mock.seen[0][0] == path


async def test_instances_take_turns(start):
    cluster = await start(colocated=3)
    for _ in range(9):
        await post(cluster)
    assert [len(mock.seen) for mock in cluster.colocated] == [3, 3, 3]


async def test_pairs_and_colocated_instances_take_turns(start):
    cluster = await start(prefill=2, decode=1, colocated=2)
    for _ in range(12):
        await post(cluster)
    assert Counter(len(mock.seen) for mock in cluster.colocated) == {4: 2}
    assert [len(mock.seen) for mock in cluster.prefill] == [2, 2]
    assert len(cluster.decode[0].seen) == 4


async def test_a_refusal_passes_unchanged(start):
    cluster = await start(colocated=1)
    cluster.colocated[0].refusal = (422, b'{"object": "error"}')
    assert await post(cluster) == (422, b'{"object": "error"}')


async def test_an_instance_cannot_send_the_router_elsewhere(start):
    cluster = await start(colocated=2, disable_retries=True)
    cluster.colocated[0].redirect = cluster.colocated[1].url + "/generate"
    async with cluster.session.post(cluster.url + "/generate", json=BODY, allow_redirects=False) as response:
        assert response.status == 502
        assert "Location" not in response.headers
        assert "a redirect to" in (await response.json())["error"]["message"]
    assert cluster.colocated[1].seen == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_aborts_the_request(start, stream):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.hold = True
    request = asyncio.create_task(post(cluster, {**BODY, "stream": stream}))
    await mock.arrived.wait()
    request.cancel()
    await mock.aborted.wait()


async def test_dying_before_the_answer_is_an_error_that_names_the_instance(start):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.hold = True
    request = asyncio.create_task(post(cluster))
    await mock.arrived.wait()
    await mock.die()
    status, answer = await request
    assert status == 502
    assert mock.url in json.loads(answer)["error"]["message"]


async def test_a_body_over_the_limit_is_refused_and_reaches_nobody(start):
    cluster = await start(colocated=1, max_payload_size=1000)
    status, answer = await post(cluster, {"text": "x" * 2000})
    assert status == 413
    assert "1000 bytes" in json.loads(answer)["error"]["message"]
    assert cluster.colocated[0].seen == []
    assert (await post(cluster))[0] == 200


async def test_an_answer_over_the_limit_is_an_error_and_the_instance_stays(start):
    cluster = await start(colocated=1, max_payload_size=1000)
    cluster.colocated[0].answer = b"x" * 2000
    assert (await post(cluster))[0] == 502
    cluster.colocated[0].answer = b"{}"
    assert (await post(cluster))[0] == 200


@pytest.mark.parametrize("status", [200, 400])
async def test_a_large_answer_to_a_client_that_reads_nothing_is_dropped(start, status, caplog):
    caplog.set_level("INFO", logger="router.access")
    cluster = await start(colocated=1, send_timeout_secs=0.3)
    mock = cluster.colocated[0]
    mock.answer = b"x" * (64 << 20)
    if status == 400:
        mock.refusal = (400, mock.answer)
    reader, writer = await asyncio.open_connection(*cluster.url.removeprefix("http://").split(":"), limit=1)
    writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    # Read before the router gives up, the answer would come whole.
    while "status=499" not in caplog.text:
        await asyncio.sleep(0.01)
    got = 0
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(1 << 20), 10):
            got += len(piece)
    assert got < len(mock.answer)
    writer.close()
    assert "Traceback" not in caplog.text


async def test_a_stream_to_a_client_that_reads_nothing_is_dropped(start, caplog):
    cluster = await start(colocated=1, send_timeout_secs=0.3)
    mock = cluster.colocated[0]
    mock.chunks = [b"data: " + b"x" * 20_000 + b"\n\n"] * 3000
    reader, writer = await asyncio.open_connection(*cluster.url.removeprefix("http://").split(":"), limit=1)
    writer.write(b'POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"stream":true}')
    await mock.arrived.wait()
    await asyncio.wait_for(mock.aborted.wait(), 10)
    got = 0
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(1 << 20), 10):
            got += len(piece)
    assert got < 3000 * 20_000
    writer.close()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("status", [200, 400])
async def test_a_large_answer_passes_whole(start, status):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.answer = bytes(range(256)) * (20 << 10)
    if status == 400:
        mock.refusal = (400, mock.answer)
    async with cluster.session.post(cluster.url + "/generate", json=BODY) as response:
        assert (response.status, await response.read()) == (status, mock.answer)
        assert response.headers["Content-Length"] == str(len(mock.answer))


async def test_a_large_body_passes(start):
    cluster = await start(colocated=1)
    body = {"text": "x" * (3 << 20)}
    assert (await post(cluster, body))[0] == 200
    assert cluster.colocated[0].bodies == [body]
