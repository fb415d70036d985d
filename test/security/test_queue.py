"""Requests in flight, and those that wait: 429, 408 and 503 as sglang_router's flags say, by mock engines."""

import asyncio
import json

import pytest
from waiting import eventually

BODY = {"text": "a"}


@pytest.fixture
def ask(open_tasks):
    def ask(cluster, path="/generate", method="POST", **body):
        async def answered():
            call = cluster.session.request(method, cluster.url + path, json=body or BODY)
            async with call as response:
                return response.status, response.headers, await response.read()

        return open_tasks(answered())

    return ask


@pytest.fixture
async def open_tasks():
    tasks = []

    def begin(work):
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def gauges(cluster):
    async with cluster.session.get(cluster.url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("memserve:router_")]
    return {name.removeprefix("memserve:router_"): float(value) for name, value in pairs}


async def waiting(cluster, count):
    while (await gauges(cluster))["queued_requests"] != count:
        await asyncio.sleep(0.01)


def refusal(answer):
    status, headers, body = answer
    error = json.loads(body)["error"]
    assert error["code"] == status
    assert int(headers["Retry-After"]) >= 1
    return status, error["type"]


async def test_beyond_the_queue_is_429_and_all_others_are_served(start, ask):
    cluster = await start(prefill=1, decode=1, max_concurrent_requests=2, queue_size=1)
    decode = cluster.decode[0]
    decode.hold = True
    running = [ask(cluster), ask(cluster)]
    await eventually(lambda: len(decode.seen) == 2)
    queued = ask(cluster, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}])
    await waiting(cluster, 1)
    for path in ("/generate", "/v1/completions", "/tokenize"):
        assert refusal(await ask(cluster, path)) == (429, "queue_full")
    assert len(decode.seen) == 2
    decode.release.set()
    assert [(await each)[0] for each in (*running, queued)] == [200] * 3
    values = await gauges(cluster)
    assert values['refused_total{reason="queue_full"}'] == 3
    assert (values["admitted_requests"], values["queued_requests"]) == (0, 0)


async def test_without_a_queue_the_next_gets_429_at_once(start, ask):
    cluster = await start(colocated=1, max_concurrent_requests=1, queue_size=0)
    cluster.colocated[0].hold = True
    running = ask(cluster)
    await cluster.colocated[0].arrived.wait()
    assert refusal(await ask(cluster)) == (429, "queue_full")
    cluster.colocated[0].release.set()
    assert (await running)[0] == 200
    assert (await ask(cluster))[0] == 200


async def test_whoever_waits_too_long_gets_408_and_never_reaches_an_instance(start, ask):
    cluster = await start(colocated=1, max_concurrent_requests=1, queue_timeout_secs=0.05)
    mock = cluster.colocated[0]
    mock.hold = True
    running = ask(cluster)
    await mock.arrived.wait()
    assert refusal(await ask(cluster)) == (408, "queue_timeout")
    mock.release.set()
    assert (await running)[0] == 200
    assert len(mock.seen) == 1
    assert (await gauges(cluster))['refused_total{reason="queue_timeout"}'] == 1


async def test_a_client_that_leaves_the_queue_frees_its_place_at_once(start, ask):
    cluster = await start(colocated=1, max_concurrent_requests=1, queue_size=1)
    mock = cluster.colocated[0]
    mock.hold = True
    running = ask(cluster)
    await mock.arrived.wait()
    leaving = ask(cluster, text="leaves")
    await waiting(cluster, 1)
    leaving.cancel()
    await waiting(cluster, 0)
    queued = ask(cluster, text="stays")
    await waiting(cluster, 1)
    mock.release.set()
    assert [(await each)[0] for each in (running, queued)] == [200, 200]
    assert [body["text"] for body in mock.bodies] == ["a", "stays"]


async def test_probes_aborts_and_operators_never_wait(start, ask):
    cluster = await start(colocated=1, max_concurrent_requests=1, queue_size=1)
    mock = cluster.colocated[0]
    mock.hold = True
    ask(cluster, rid="mine")
    await mock.arrived.wait()
    ask(cluster)
    await waiting(cluster, 1)
    for path in ("/health", "/ready", "/readiness", "/liveness", "/ping", "/workers", "/metrics"):
        async with cluster.session.get(cluster.url + path) as response:
            assert response.status == 200
    assert (await ask(cluster, "/abort_request", rid="mine"))[0] == 200
    assert [body["rid"] for body, _ in mock.aborts] == ["mine"]
    # What an instance is asked without work for it.
    models = ask(cluster, "/v1/models", "GET")
    await eventually(lambda: any(path == "/v1/models" for path, _, _ in mock.seen))
    mock.release.set()
    assert (await models)[0] == 200


async def test_what_is_aborted_while_it_waits_reaches_no_instance(start, ask):
    cluster = await start(colocated=1, max_concurrent_requests=1)
    mock = cluster.colocated[0]
    mock.hold = True
    running = ask(cluster)
    await mock.arrived.wait()
    aborted, other = ask(cluster, rid="mine"), ask(cluster, rid="another")
    await waiting(cluster, 2)
    assert (await ask(cluster, "/abort_request", rid="mine"))[0] == 200
    mock.release.set()
    assert [(await each)[0] for each in (running, aborted, other)] == [200, 409, 200]
    assert [body.get("rid") for body in mock.bodies] == [None, "another"]


async def test_a_stream_holds_its_place_to_its_end(start, ask):
    cluster = await start(prefill=1, decode=1, max_concurrent_requests=1, queue_size=1)
    decode = cluster.decode[0]
    decode.hold_after = 1
    async with cluster.session.post(cluster.url + "/generate", json={**BODY, "stream": True}) as response:
        assert await response.content.readany()
        queued = ask(cluster)
        await waiting(cluster, 1)
        assert len(decode.seen) == 1
        decode.release.set()
        await response.read()
    assert (await queued)[0] == 200


async def test_a_failed_request_gives_its_place_back(start, ask):
    cluster = await start(colocated=1, max_concurrent_requests=1, queue_size=0, disable_retries=True)
    mock = cluster.colocated[0]
    mock.refusal = (500, b"no")
    for _ in range(5):
        assert (await ask(cluster))[0] == 500
    mock.refusal = None
    assert (await ask(cluster))[0] == 200


async def test_more_than_a_second_may_begin_is_429(start, ask):
    cluster = await start(
        colocated=1, max_concurrent_requests=3, rate_limit_tokens_per_second=1, queue_size=0
    )
    answers = [await ask(cluster) for _ in range(20)]
    assert [answer[0] for answer in answers[:3]] == [200] * 3
    assert refusal(next(answer for answer in answers if answer[0] != 200)) == (429, "rate_limit")


@pytest.mark.parametrize("limit", [-1, 0])
async def test_no_limit_is_no_limit(start, ask, limit):
    cluster = await start(colocated=1, max_concurrent_requests=limit, queue_size=0)
    mock = cluster.colocated[0]
    mock.hold = True
    running = [ask(cluster) for _ in range(50)]
    await eventually(lambda: len(mock.seen) == 50)
    mock.release.set()
    assert [(await each)[0] for each in running] == [200] * 50


async def test_a_client_that_is_slow_to_send_takes_no_turn(start, ask):
    cluster = await start(colocated=1, max_concurrent_requests=1, queue_size=0)
    where = cluster.url.removeprefix("http://").split(":")
    writers = []
    for _ in range(5):
        _, writer = await asyncio.open_connection(*where)
        writer.write(b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: 100\r\n\r\n{")
        writers.append(writer)
    for _ in range(10):
        assert (await ask(cluster))[0] == 200
    for writer in writers:
        writer.close()
