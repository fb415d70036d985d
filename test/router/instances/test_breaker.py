"""An instance that keeps failing rests, and comes back by and by."""

import asyncio
import json

import pytest

from router.instances.breaker import Breaker

BODY = {"text": "hi"}
FAST = {"retry_initial_backoff_ms": 1, "disable_retries": True}


@pytest.fixture
def breaker(clock):
    return Breaker(failure_threshold=3, success_threshold=2, rest_s=10, window_s=30, clock=clock)


def opened(breaker):
    assert [breaker.failed() for _ in range(3)] == [False, False, True]
    return breaker


def test_it_opens_after_so_many_failures_in_a_row(breaker):
    breaker.failed()
    breaker.failed()
    breaker.ended()
    assert not breaker.failed()
    assert not breaker.failed()
    assert (breaker.state, breaker.lets_through()) == ("closed", True)
    assert breaker.failed()
    assert (breaker.state, breaker.lets_through()) == ("open", False)


def test_old_failures_do_not_count(breaker, clock):
    breaker.failed()
    clock.now += 31
    breaker.failed()
    breaker.failed()
    assert breaker.closed


def test_after_its_rest_it_takes_one_at_a_time_until_it_closes(breaker, clock):
    opened(breaker)
    clock.now += 9
    assert not breaker.lets_through()
    clock.now += 1
    assert breaker.state == "half_open"
    for first, second in (("a", "b"), ("c", "d")):
        assert breaker.lets_through()
        breaker.takes(first)
        assert not breaker.lets_through()
        # One that slipped in is no trial.
        breaker.takes(second)
        breaker.leaves(second)
        assert not breaker.lets_through()
        breaker.began(first)
        breaker.leaves(first)
    assert (breaker.state, breaker.lets_through()) == ("closed", True)
    assert not breaker.failed()


def test_a_failure_on_trial_is_another_rest(breaker, clock):
    opened(breaker)
    clock.now += 10
    breaker.takes("a")
    assert breaker.failed()
    breaker.leaves("a")
    assert breaker.state == "open"
    clock.now += 10
    assert breaker.lets_through()


def test_a_trial_that_its_client_left_says_nothing(breaker, clock):
    opened(breaker)
    clock.now += 10
    breaker.takes("a")
    breaker.leaves("a")
    assert breaker.lets_through()
    assert breaker.state == "half_open"


def test_what_was_running_when_it_opened_says_nothing(breaker, clock):
    opened(breaker)
    clock.now += 9
    assert not breaker.failed()
    breaker.began("old")
    breaker.ended()
    clock.now += 1
    assert breaker.state == "half_open"


async def post(cluster, body=BODY, path="/generate"):
    async with cluster.session.post(cluster.url + path, json=body) as response:
        return response.status, await response.read()


async def circuits(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        return {entry["url"]: entry["circuit"] for entry in (await response.json())["workers"]}


async def test_requests_go_elsewhere_while_one_rests(start):
    cluster = await start(colocated=2, cb_failure_threshold=3, **FAST)
    sick, well = cluster.colocated
    sick.refusal = (500, b"broken")
    statuses = [(await post(cluster))[0] for _ in range(12)]
    assert statuses.count(500) == 3
    assert await circuits(cluster) == {sick.url: "open", well.url: "closed"}
    assert len(sick.seen) == 3


async def test_with_nobody_else_the_answer_is_503_and_says_why(start):
    cluster = await start(prefill=1, decode=1, cb_failure_threshold=2, **FAST)
    cluster.decode[0].refusal = (500, b"broken")
    assert [(await post(cluster))[0] for _ in range(3)] == [500, 500, 503]
    message = json.loads((await post(cluster))[1])["error"]["message"]
    assert cluster.decode[0].url in message
    assert "rests" in message
    assert cluster.prefill[0].url not in message
    async with cluster.session.get(cluster.url + "/readiness") as response:
        assert response.status == 503


@pytest.mark.parametrize("stream", [False, True])
async def test_it_serves_again_after_rest_and_trial(start, stream):
    chosen = {"cb_failure_threshold": 2, "cb_success_threshold": 2, "cb_timeout_duration_secs": 0.1}
    cluster = await start(prefill=1, decode=1, **chosen, **FAST)
    body = BODY | {"stream": stream}
    cluster.prefill[0].refusal, cluster.decode[0].hold = (500, b"broken"), True
    for _ in range(2):
        assert (await post(cluster, body))[0] == 500
    cluster.prefill[0].refusal, cluster.decode[0].hold = None, False
    while cluster.prefill[0].url in (await post(cluster, body))[1].decode():
        await asyncio.sleep(0.01)
    assert (await post(cluster, body))[0] == 200
    assert set((await circuits(cluster)).values()) == {"closed"}


async def test_one_trial_at_a_time(start):
    chosen = {"cb_failure_threshold": 1, "cb_timeout_duration_secs": 0.05}
    cluster = await start(colocated=1, **chosen, **FAST)
    mock = cluster.colocated[0]
    mock.refusal = (500, b"broken")
    await post(cluster)
    while await circuits(cluster) != {mock.url: "half_open"}:
        await asyncio.sleep(0.01)
    mock.refusal, mock.hold = None, True
    trial = asyncio.create_task(post(cluster))
    while len(mock.seen) < 2:
        await asyncio.sleep(0.01)
    assert (await post(cluster))[0] == 503
    mock.release.set()
    assert (await trial)[0] == 200


@pytest.mark.parametrize("status", [400, 404, 408, 429, 503])
async def test_a_full_or_misused_instance_is_not_broken(start, status):
    cluster = await start(colocated=1, cb_failure_threshold=2, **FAST)
    mock = cluster.colocated[0]
    mock.refusal = (status, b"no")
    for _ in range(5):
        await post(cluster)
    assert set((await circuits(cluster)).values()) == {"closed"}


async def test_a_death_under_many_requests_is_one_failure(start):
    cluster = await start(colocated=1, cb_failure_threshold=2, health_check_interval_secs=0.05, **FAST)
    mock = cluster.colocated[0]
    mock.hold = True
    requests = [asyncio.create_task(post(cluster)) for _ in range(8)]
    while len(mock.seen) < 8:
        await asyncio.sleep(0.01)
    await mock.die()
    assert {status for status, _ in await asyncio.gather(*requests)} == {502}
    mock.hold = False
    await mock.start()
    async with asyncio.timeout(5):
        while (await post(cluster))[0] != 200:
            await asyncio.sleep(0.01)


async def test_streams_that_break_off_count_and_those_that_end_clear(start):
    cluster = await start(colocated=1, cb_failure_threshold=2, request_timeout_secs=0.05, **FAST)
    mock = cluster.colocated[0]
    for hold, expected in ((1, "closed"), (None, "closed"), (1, "closed"), (1, "open")):
        mock.hold_after = hold
        await post(cluster, {"stream": True})
        assert await circuits(cluster) == {mock.url: expected}


async def test_a_stream_that_reports_a_failure_is_no_success(start):
    cluster = await start(colocated=1, cb_failure_threshold=3, **FAST)
    mock = cluster.colocated[0]
    mock.chunks = [b'data: {"error": {"code": 500}}\n\n', b"data: [DONE]\n\n"]
    for _ in range(3):
        assert (await post(cluster, {"stream": True}))[0] == 200
    assert await circuits(cluster) == {mock.url: "open"}


async def test_aborts_by_name_open_no_breaker(start):
    """SGLang ends them with a 500."""
    cluster = await start(colocated=1, cb_failure_threshold=2, **FAST)
    mock = cluster.colocated[0]
    mock.refusal = (500, b'{"error": {"message": "Aborted by AbortReq."}}')
    assert [(await post(cluster))[0] for _ in range(4)] == [500] * 4
    assert await circuits(cluster) == {mock.url: "closed"}


async def test_it_can_be_switched_off(start):
    cluster = await start(colocated=1, cb_failure_threshold=1, disable_circuit_breaker=True, **FAST)
    mock = cluster.colocated[0]
    mock.refusal = (500, b"broken")
    assert [(await post(cluster))[0] for _ in range(5)] == [500] * 5
