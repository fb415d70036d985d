"""Requests that fail before their answer begins are tried again, elsewhere if possible."""

import asyncio
import json
import random

import pytest
from router_requests import post

from router.config.settings import RouterConfig
from router.forwarding.aborts import ClientAborts
from router.forwarding.retries import backoff

BODY = {"text": "hi", "sampling_params": {"max_new_tokens": 4}}
STREAM = BODY | {"stream": True}
FAST = {"retry_initial_backoff_ms": 1}


def failing(times, status=500, words=b'{"error": "x"}', then=(200, b'{"text": "at last"}')):
    left = [times]

    def refusal(_):
        left[0] -= 1
        return (status, words) if left[0] >= 0 else then

    return refusal


def seen(mocks):
    return [len(mock.seen) for mock in mocks]


async def until_aborted(*mocks):
    while not all(mock.aborts for mock in mocks):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["single", "stream"])
async def test_when_prefill_is_refused_decode_is_aborted_and_another_pair_serves(start, body):
    cluster = await start(prefill=2, decode=1, **FAST)
    dead, alive = cluster.prefill
    decode = cluster.decode[0]
    decode.hold = True
    await dead.die()
    request = asyncio.create_task(post(cluster, body))
    while len(decode.seen) < 2:
        await asyncio.sleep(0.01)
    first, second = decode.bodies
    assert decode.aborted.is_set()
    await until_aborted(decode)
    assert [abort["rid"] for abort, _ in decode.aborts] == [first["rid"]]
    assert first["rid"] != second["rid"]
    assert first["bootstrap_room"] != second["bootstrap_room"]
    decode.release.set()
    assert (await request)[0] == 200
    assert alive.bodies == [second]


async def test_when_decode_fails_prefill_is_aborted_and_another_one_decodes(start):
    cluster = await start(prefill=1, decode=2, **FAST)
    prefill = cluster.prefill[0]
    prefill.hold = True
    cluster.decode[0].refusal = (500, b"broken")
    assert (await post(cluster, BODY)) == (200, cluster.decode[1].answer)
    await until_aborted(prefill)
    assert prefill.aborts[0][0]["rid"] == prefill.bodies[0]["rid"]
    assert cluster.decode[1].bodies == [prefill.bodies[1]]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_is_no_fault_of_the_requests_is_tried_elsewhere(start, status):
    # A policy that would choose the same instance again.
    cluster = await start(colocated=2, policy="session", **FAST)
    cluster.colocated[0].refusal = (status, b"not now")
    for number in range(40):
        body = BODY | {"session_id": number}
        assert (await post(cluster, body)) == (200, cluster.colocated[1].answer)
    assert cluster.colocated[0].seen


@pytest.mark.parametrize("status", [400, 404, 413, 422, 501])
async def test_what_is_the_requests_fault_is_not(start, status):
    cluster = await start(colocated=2, **FAST)
    for mock in cluster.colocated:
        mock.refusal = (status, b"no")
    assert await post(cluster, BODY) == (status, b"no")
    assert sorted(seen(cluster.colocated)) == [0, 1]


@pytest.mark.parametrize("chosen", [{}, {"disable_retries": True}, {"retry_max_retries": 2}])
async def test_there_are_so_many_tries_and_the_last_one_is_the_answer(start, chosen):
    cluster = await start(colocated=1, **FAST, **chosen)
    tries = 1 if chosen.get("disable_retries") else chosen.get("retry_max_retries", 5)
    mock = cluster.colocated[0]
    mock.refusal = lambda _: (503, b"full %d" % len(mock.seen))
    assert await post(cluster, BODY) == (503, b"full %d" % tries)
    assert len(mock.seen) == tries


async def test_the_only_instance_is_tried_again(start):
    cluster = await start(colocated=1, **FAST)
    cluster.colocated[0].refusal = failing(2)
    assert await post(cluster, BODY) == (200, b'{"text": "at last"}')


async def test_nothing_is_tried_again_once_the_answer_has_begun(start):
    cluster = await start(colocated=2, **FAST)
    for mock in cluster.colocated:
        mock.hold_after = 1
    async with cluster.session.post(cluster.url + "/generate", json=STREAM) as response:
        got = await response.content.readany()
        await next(mock for mock in cluster.colocated if mock.seen).die()
        got += await response.read()
    assert b"instance_failed" in got
    assert sorted(seen(cluster.colocated)) == [0, 1]


FAILED = b'data: {"error": {"message": "no memory", "code": %d}}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("failing", ["prefill", "decode"])
async def test_a_stream_that_begins_with_its_failure_has_not_begun(start, failing):
    cluster = await start(prefill=2, decode=2, **FAST)
    getattr(cluster, failing)[0].chunks = [FAILED % 500]
    if failing == "prefill":
        for mock in cluster.decode:
            mock.hold_after = 0
        cluster.decode[1].hold_after = None
    assert await post(cluster, STREAM) == (200, b"".join(cluster.decode[1].chunks))


async def test_what_a_failed_stream_leaves_is_broken_off_before_the_next_try(start):
    cluster = await start(prefill=2, decode=2, **FAST)
    for mock in cluster.prefill:
        mock.hold = True
    cluster.decode[0].chunks = [FAILED % 500]
    cluster.decode[1].hold_after = 1
    async with cluster.session.post(cluster.url + "/generate", json=STREAM) as response:
        await response.content.readany()
        first = next(mock for mock in cluster.prefill if mock.aborted.is_set())
        await until_aborted(first)
        assert first.aborts[0][0]["rid"] == cluster.decode[0].bodies[0]["rid"]


@pytest.mark.parametrize("code", [400, 500])
async def test_a_stream_that_fails_for_good_passes_as_it_came(start, code):
    cluster = await start(colocated=1, **FAST)
    mock = cluster.colocated[0]
    mock.chunks = [FAILED % code]
    assert await post(cluster, STREAM) == (200, FAILED % code)
    assert len(mock.seen) == (1 if code == 400 else 5)


async def test_a_client_that_leaves_between_two_tries_ends_them(start, caplog):
    caplog.set_level("INFO", logger="router.forwarding.retries")
    cluster = await start(colocated=1, retry_initial_backoff_ms=200)
    mock = cluster.colocated[0]
    mock.refusal = (503, b"full")
    request = asyncio.create_task(post(cluster, BODY))
    while "trying a request again" not in caplog.text:
        await asyncio.sleep(0.005)
    request.cancel()
    await asyncio.sleep(0.4)
    assert len(mock.seen) == 1


@pytest.mark.parametrize("aborted", [{"rid": "mine"}, {"rid": "mi"}, {"rid": "", "abort_all": True}])
async def test_what_was_aborted_by_name_stays_so(start, aborted):
    cluster = await start(colocated=1, retry_initial_backoff_ms=100)
    mock = cluster.colocated[0]
    mock.refusal = lambda raw: (500, b"aborted") if b"mine" in raw else (200, b"")
    request = asyncio.create_task(post(cluster, BODY | {"rid": "mine"}))
    await mock.arrived.wait()
    mock.refusal, kept = None, mock.refusal
    assert (await post(cluster, aborted, "/abort_request"))[0] == 200
    mock.refusal = kept
    assert await request == (500, b"aborted")
    assert len(mock.seen) == 1


async def test_a_name_that_the_try_before_still_has_is_tried_again(start):
    cluster = await start(prefill=1, decode=1, **FAST)
    answers = [(500, b'{"error": "x"}'), (400, b'{"error": {"message": "Duplicate request ID detected: n"}}')]
    good = (200, cluster.decode[0].answer)
    cluster.decode[0].refusal = lambda _: answers.pop(0) if answers else good
    assert await post(cluster, BODY | {"rid": "n"}) == good


async def test_a_name_that_somebody_elses_request_has_is_the_clients_fault(start):
    cluster = await start(colocated=2, **FAST)
    for mock in cluster.colocated:
        mock.refusal = (400, b'{"error": {"message": "Duplicate request ID detected: n"}}')
    assert (await post(cluster, BODY | {"rid": "n"}))[0] == 400
    assert sum(seen(cluster.colocated)) == 1


async def test_what_was_aborted_past_the_router_stays_so(start):
    """By the instance's own /abort_request; SGLang answers with a 500."""
    cluster = await start(colocated=2, **FAST)
    words = b'{"object": "error", "message": "Aborted by AbortReq.", "code": 500}'
    cluster.colocated[0].refusal = cluster.colocated[1].refusal = (500, words)
    assert (await post(cluster, BODY)) == (500, words)
    assert sum(seen(cluster.colocated)) == 1


async def test_what_is_aborted_while_it_runs_is_answered_at_once(start):
    cluster = await start(colocated=1, retry_initial_backoff_ms=60_000, retry_max_backoff_ms=60_000)
    mock = cluster.colocated[0]
    mock.hold = True
    request = asyncio.create_task(post(cluster, STREAM | {"rid": "mine"}))
    await mock.arrived.wait()
    assert (await post(cluster, {"rid": "mine"}, "/abort_request"))[0] == 200
    mock.chunks = [FAILED % 500]
    mock.release.set()
    assert await request == (200, FAILED % 500)


async def test_a_clients_own_name_is_free_again_before_the_next_try(start):
    cluster = await start(prefill=1, decode=1, **FAST)
    p, d = cluster.prefill[0], cluster.decode[0]
    p.refusal = failing(1)
    d.hold, d.abort_pause = True, 0.2
    request = asyncio.create_task(post(cluster, BODY | {"rid": "mine"}))
    await d.arrived.wait()
    d.hold = False
    assert (await request)[0] == 200
    assert [abort["rid"] for abort, _ in d.aborts] == ["mine"]
    assert len(d.seen) == 2


async def test_no_try_begins_after_the_longest_silence(start):
    cluster = await start(colocated=1, request_timeout_secs=0.2, retry_initial_backoff_ms=150)
    mock = cluster.colocated[0]
    mock.refusal = (503, b"full")
    assert (await post(cluster, BODY))[0] == 503
    assert len(mock.seen) == 2


async def test_with_nobody_left_the_client_gets_the_last_failure(start):
    cluster = await start(prefill=1, decode=1, **FAST)
    await cluster.prefill[0].die()
    status, answer = await post(cluster, BODY)
    assert status == 502
    assert cluster.prefill[0].url in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize(("path", "method"), [("/v1/models", "GET"), ("/v1/embeddings", "POST")])
async def test_other_requests_are_tried_again_too(start, path, method):
    cluster = await start(colocated=2, **FAST)
    for mock in cluster.colocated:
        mock.refusal = failing(1, then=(200, b"{}"))
    async with cluster.session.request(method, cluster.url + path, json=BODY) as response:
        assert response.status == 200


async def test_nothing_stays_charged(start):
    cluster = await start(prefill=2, decode=2, **FAST)
    for mock in cluster.prefill:
        mock.refusal = failing(1)
    for _ in range(4):
        await post(cluster, BODY)
    async with cluster.session.get(cluster.url + "/workers") as response:
        listing = (await response.json())["workers"]
    assert {(entry["in_flight"], entry["charged_tokens"]) for entry in listing} == {(0, 0)}


def test_pauses_grow_and_are_bounded():
    even = RouterConfig(retry_jitter_factor=0.0, retry_max_retries=5)
    assert list(backoff(even, random.Random())) == pytest.approx([0.05, 0.075, 0.1125, 0.16875])
    wild = RouterConfig(retry_jitter_factor=1.0, retry_max_retries=200, retry_max_backoff_ms=300)
    assert all(0 <= pause <= 0.3 for pause in backoff(wild, random.Random(1)))
    assert len(list(backoff(wild, random.Random()))) == 199
    assert list(backoff(RouterConfig(disable_retries=True), random.Random())) == []


def test_aborts_are_remembered_in_bounds():
    aborts = ClientAborts()
    for number in range(10_000):
        aborts.record(json.dumps({"rid": f"r{number}"}).encode())
    for raw in (b"", b"[]", b"{", b"\xff"):
        aborts.record(raw)
    assert aborts.any_since(9_000, ["r9999-1"])
    assert not aborts.any_since(9_000, ["q"])
    assert not aborts.any_since(10_000, ["r9999"])
    assert not aborts.any_since(0, ["r9"])
