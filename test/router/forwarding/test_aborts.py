"""Requests that nobody waits for any more are stopped by name on every instance that has them."""

import asyncio
import json

import pytest
from router_requests import post

from router.forwarding import aborts

SINGLE = {"text": "hi", "sampling_params": {"max_new_tokens": 4}}


async def leave(cluster, body, path="/generate", mocks=(), **headers):
    """A client that goes when its request has reached the mocks, which hold it."""
    for mock in mocks:
        mock.hold = True
    request = asyncio.create_task(post(cluster, body, path, **headers))
    await asyncio.gather(*(mock.arrived.wait() for mock in mocks))
    request.cancel()
    await asyncio.gather(*(mock.aborted.wait() for mock in mocks))


async def until_aborted(*mocks):
    async with asyncio.timeout(5):
        while not all(mock.aborts for mock in mocks):
            await asyncio.sleep(0.01)


@pytest.fixture
def at_once(monkeypatch):
    """Aborts are not held back: where one is sent, it is seen soon."""
    monkeypatch.setattr(aborts, "_EARLY_SECS", 0.0)


def rids(mock):
    return [body["rid"] for body, _ in mock.aborts]


@pytest.mark.parametrize("stream", [False, True])
async def test_both_halves_get_the_name_that_the_router_gave(pd, stream):
    await leave(pd, SINGLE | {"stream": stream}, mocks=(pd.p, pd.d))
    await until_aborted(pd.p, pd.d)
    (sent,) = pd.p.bodies
    assert len(sent["rid"]) == 32
    assert rids(pd.p) == rids(pd.d) == [sent["rid"]]


async def test_an_abort_does_not_overtake_its_request_inside_the_instance(pd, monkeypatch, real_abort_delay):
    """SGLang would forget it, and every later one of that name."""
    monkeypatch.setattr(aborts, "_EARLY_SECS", real_abort_delay)
    begun = asyncio.get_running_loop().time()
    await leave(pd, SINGLE, mocks=(pd.p, pd.d))
    await until_aborted(pd.p, pd.d)
    assert asyncio.get_running_loop().time() - begun >= 0.5


async def test_every_request_has_a_name_of_its_own(pd):
    for _ in range(20):
        await post(pd, {"messages": []}, "/v1/chat/completions")
    assert len({body["rid"] for body in pd.d.bodies}) == 20
    assert pd.p.bodies == pd.d.bodies


async def test_a_name_that_is_null_is_none(pd):
    await leave(pd, {**SINGLE, "rid": None}, mocks=(pd.p, pd.d))
    await until_aborted(pd.p, pd.d)
    (sent,) = pd.d.bodies
    assert pd.d.seen[0][1].count(b'"rid"') == 1
    assert len(sent["rid"]) == 32
    assert rids(pd.p) == rids(pd.d) == [sent["rid"]]


async def test_a_clients_name_is_aborted_where_an_answer_to_it_had_begun(pd):
    pd.p.hold_after, pd.d.hold_after = 1, 1
    body = SINGLE | {"rid": "mine", "stream": True}
    async with pd.session.post(pd.url + "/generate", json=body) as response:
        await response.content.readany()
    await until_aborted(pd.p, pd.d)
    assert rids(pd.p) == rids(pd.d) == ["mine"]
    assert pd.d.bodies == [pd.d.bodies[0] | {"rid": "mine"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_clients_name_is_aborted_where_it_was_not_refused(pd, stream):
    await leave(pd, SINGLE | {"rid": "mine", "stream": stream}, mocks=(pd.p, pd.d))
    await until_aborted(pd.p, pd.d)
    assert rids(pd.p) == rids(pd.d) == ["mine"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_name_that_both_halves_refuse_is_aborted_on_neither(pd, at_once, stream):
    """It is the name of a request that came another way; decode says so a moment after prefill."""
    pd.p.refusal = pd.d.refusal = (400, b'{"message": "Duplicate request ID detected: mine"}')
    pd.d.hold = True
    request = asyncio.create_task(post(pd, SINGLE | {"rid": "mine", "stream": stream}))
    await pd.d.arrived.wait()
    await asyncio.sleep(0.1)
    pd.d.release.set()
    assert (await request)[0] == 400
    await asyncio.sleep(0.1)
    assert pd.p.aborts == pd.d.aborts == []


async def test_a_refused_name_does_not_end_the_request_whose_name_it_is(pd):
    """The answer is the owner's, whole, however often another one comes with its name."""
    body = SINGLE | {"rid": "mine", "stream": True}
    pd.p.hold_after = pd.d.hold_after = 1
    async with pd.session.post(pd.url + "/generate", json=body) as owner:
        first = await owner.content.readany()
        for number in range(20):
            status, answer = await post(pd, SINGLE | {"rid": "mine", "stream": bool(number % 2)})
            assert status == 400
            assert "Duplicate request ID detected: mine" in json.loads(answer)["error"]["message"]
        pd.p.release.set()
        pd.d.release.set()
        assert first + await owner.read() == b"".join(pd.d.chunks)
    assert len(pd.p.seen) == len(pd.d.seen) == 1
    assert pd.p.aborts == pd.d.aborts == []
    assert (await post(pd, SINGLE | {"rid": "mine"}))[0] == 200


@pytest.mark.parametrize("rid", [["a", "a"], ["b", "mine"]])
async def test_a_name_in_a_batch_is_refused_too(pd, rid):
    pd.p.hold = pd.d.hold = True
    owner = asyncio.create_task(post(pd, SINGLE | {"rid": "mine"}))
    await pd.d.arrived.wait()
    assert (await post(pd, {"text": ["a", "b"], "rid": rid}))[0] == 400
    pd.p.release.set()
    pd.d.release.set()
    assert (await owner)[0] == 200


async def test_the_abort_has_the_clients_credentials(pd):
    await leave(pd, SINGLE, mocks=(pd.p, pd.d), Authorization="Bearer t")
    await until_aborted(pd.p, pd.d)
    for mock in (pd.p, pd.d):
        ((_, headers),) = mock.aborts
        assert headers["Authorization"] == "Bearer t"
        assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("failing", ["p", "d"])
async def test_when_one_half_refuses_the_other_one_is_aborted(pd, failing):
    refusing, waiting = (pd.p, pd.d) if failing == "p" else (pd.d, pd.p)
    refusing.refusal = (400, b"{}")
    waiting.hold = True
    assert (await post(pd, SINGLE))[0] == 400
    await until_aborted(waiting)
    assert rids(waiting) == [waiting.bodies[0]["rid"]]
    assert refusing.aborts == []


async def test_an_instance_that_answered_in_full_gets_no_abort(pd, at_once):
    for body in (SINGLE, SINGLE | {"stream": True}):
        assert (await post(pd, body))[0] == 200
    await asyncio.sleep(0.1)
    assert pd.p.aborts == pd.d.aborts == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": ["a", "b"]}),
        ("/generate", {"text": ["a"], "rid": ["x"]}),
        ("/v1/completions", {"prompt": "a", "n": 2}),
    ],
)
async def test_what_sglang_splits_under_names_of_its_own_gets_none(start, at_once, path, body):
    cluster = await start(prefill=1, decode=1, info={"memserve": {"room_per_sample": True}})
    mocks = (cluster.prefill[0], cluster.decode[0])
    await leave(cluster, body, path, mocks=mocks)
    await asyncio.sleep(0.1)
    for mock in mocks:
        assert mock.bodies[0].get("rid") == body.get("rid")
        assert mock.aborts == []


async def test_a_colocated_instance_gets_no_name_that_the_client_did_not_give(start):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    await leave(cluster, SINGLE, mocks=[mock])
    assert mock.bodies == [SINGLE]


async def test_a_refusal_that_quotes_the_body_does_not_quote_the_name(pd):
    pd.p.refusal = pd.d.refusal = lambda raw: (400, json.dumps({"message": f"{json.loads(raw)}"}).encode())
    assert json.loads((await post(pd, SINGLE))[1]) == {"message": str(SINGLE)}


async def test_an_instance_that_does_not_hear_holds_nobody_up(pd):
    for mock in (pd.p, pd.d):
        mock.abort_pause = 30
    await leave(pd, SINGLE, mocks=(pd.p, pd.d))
    for mock in (pd.p, pd.d):
        mock.hold = False
    async with asyncio.timeout(2):
        assert (await post(pd, SINGLE))[0] == 200
