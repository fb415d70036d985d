"""When one half of a pair refuses, dies or falls silent, or the client leaves, the other half ends too."""

import asyncio
import json

import pytest
from router_requests import post

SINGLE = {"text": "hi", "sampling_params": {"max_new_tokens": 4}}
STREAM = {**SINGLE, "stream": True}


async def workers(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        return {entry["url"]: entry for entry in (await response.json())["workers"]}


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
