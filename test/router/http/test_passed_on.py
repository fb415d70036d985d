"""The endpoints that are passed on, refused, or asked of all instances."""

import asyncio
import json
from pathlib import Path

import pytest

from router.http.endpoint import AnsweredBy
from router.http.endpoints import ENDPOINTS

BODY = {"text": "hi"}
ANY_INSTANCE = sorted(
    endpoint.path
    for endpoint in ENDPOINTS
    if endpoint.answered_by is AnsweredBy.ANY_INSTANCE and endpoint.methods == ("POST",)
)
COLOCATED = sorted(endpoint.path for endpoint in ENDPOINTS if endpoint.answered_by is AnsweredBy.COLOCATED)


async def ask(cluster, method, path, **kwargs):
    async with cluster.session.request(method, cluster.url + path, **kwargs) as response:
        raw = await response.read()
        try:
            return response.status, json.loads(raw)
        except ValueError:
            return response.status, raw


def test_the_manual_lists_every_endpoint():
    manual = (Path(__file__).parents[3] / "docs" / "router.md").read_text()
    assert [endpoint.path for endpoint in ENDPOINTS if endpoint.path.replace(":.+", "") not in manual] == []


def test_what_a_pair_cannot_do_has_its_reason():
    assert all(
        bool(endpoint.pd_unsupported_reason)
        == (endpoint.answered_by in (AnsweredBy.COLOCATED, AnsweredBy.HOLDER))
        for endpoint in ENDPOINTS
    )


@pytest.mark.parametrize("path", ANY_INSTANCE)
async def test_questions_about_text_and_model_go_to_any_instance_as_they_are(pd, path):
    assert await ask(pd, "POST", path + "?x=1", json=BODY) == (200, json.loads(pd.d.answer))
    assert (pd.d.seen[0][0], pd.d.bodies) == (path + "?x=1", [BODY])
    assert pd.p.seen == []


async def test_a_model_whose_name_has_slashes_is_asked_for_as_it_is(pd):
    assert (await ask(pd, "GET", "/v1/models/org/model"))[0] == 200
    assert pd.d.seen[0][0] == "/v1/models/org/model"


@pytest.mark.parametrize("path", COLOCATED)
async def test_what_no_pair_can_do_is_refused_by_pairs_with_the_reason(pd, path):
    status, answer = await ask(pd, "POST", path, json=BODY)
    reason = next(endpoint.pd_unsupported_reason for endpoint in ENDPOINTS if endpoint.path == path)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert answer["error"]["message"].startswith(reason)
    assert "--worker-urls" in answer["error"]["message"]
    assert pd.p.seen == pd.d.seen == []


@pytest.mark.parametrize("path", COLOCATED)
async def test_and_done_by_a_colocated_instance(start, path):
    cluster = await start(prefill=1, decode=1, colocated=2)
    for _ in range(4):
        assert (await ask(cluster, "POST", path, json=BODY))[0] == 200
    assert [len(mock.seen) for mock in (*cluster.colocated, *cluster.prefill, *cluster.decode)] == [
        2,
        2,
        0,
        0,
    ]
    assert cluster.colocated[0].bodies == [BODY, BODY]


async def test_a_colocated_instance_that_is_down_is_named(start):
    cluster = await start(prefill=1, decode=1, colocated=1)
    await cluster.colocated[0].die()
    assert (await ask(cluster, "POST", "/v1/embeddings", json=BODY))[0] == 502
    status, answer = await ask(cluster, "POST", "/v1/embeddings", json=BODY)
    assert status == 503
    assert cluster.colocated[0].url in answer["error"]["message"]


async def test_colocated_instances_serve_on_when_the_pairs_are_down(start):
    cluster = await start(prefill=1, decode=1, colocated=1)
    for _ in range(4):
        assert (await ask(cluster, "POST", "/generate", json=BODY))[0] == 200
    assert [len(mock.seen) for mock in (*cluster.decode, *cluster.colocated)] == [2, 2]
    await cluster.decode[0].die()
    statuses = [(await ask(cluster, "POST", "/generate", json=BODY))[0] for _ in range(6)]
    assert statuses == [200] * 6
    assert len(cluster.colocated[0].seen) == 8


async def test_their_streams_pass_and_end_when_the_client_leaves(start):
    cluster = await start(prefill=1, decode=1, colocated=1)
    mock = cluster.colocated[0]
    status, raw = await ask(cluster, "POST", "/v1/score", json={"stream": True})
    assert (status, raw) == (200, b"".join(mock.chunks))
    mock.hold_after = 1
    mock.hold = True
    request = asyncio.create_task(ask(cluster, "POST", "/v1/score", json={"stream": True}))
    while len(mock.seen) < 2:
        await asyncio.sleep(0.01)
    request.cancel()
    await mock.aborted.wait()


async def test_a_stream_of_lines_passes_as_it_comes_and_is_cut_if_it_breaks(start):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.stream_type = "application/x-ndjson"
    mock.hold_after = 1
    async with cluster.session.post(cluster.url + "/api/chat", json={"stream": True}) as response:
        assert await response.content.readany() == mock.chunks[0]
        await mock.die()
        with pytest.raises(Exception, match=r"payload|closed|reset"):
            await response.read()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/responses/r1"), ("POST", "/v1/responses/r1/cancel")]
)
async def test_a_stored_answer_is_found_where_it_is(start, method, path):
    cluster = await start(colocated=3)
    first, second, third = cluster.colocated
    first.refusal = (404, b'{"error": "unknown"}')
    assert await ask(cluster, method, path) == (200, json.loads(second.answer))
    assert third.seen == []
    for mock in (second, third):
        mock.refusal = (404, b'{"error": "unknown"}')
    assert await ask(cluster, method, path) == (404, {"error": "unknown"})
    second.refusal = (500, b'{"error": "broken"}')
    assert await ask(cluster, method, path) == (500, {"error": "broken"})


async def test_an_abort_reaches_every_instance_and_answers_as_one(start):
    cluster = await start(prefill=1, decode=2, colocated=1)
    mocks = (*cluster.prefill, *cluster.decode, *cluster.colocated)
    assert await ask(cluster, "POST", "/abort_request", json={"rid": "r"}) == (200, b"")
    for mock in mocks:
        ((body, headers),) = mock.aborts
        assert body == {"rid": "r"}
        assert headers["Content-Type"] == "application/json"
        mock.refusal = (400, b'{"error": {"message": "no JSON"}}')
    assert await ask(cluster, "POST", "/abort_request", data=b"{") == (400, {"error": {"message": "no JSON"}})
    assert (await ask(cluster, "GET", "/abort_request"))[0] == 405


async def test_an_abort_that_one_instance_did_not_take_says_so(start):
    cluster = await start(prefill=1, decode=2)
    cluster.decode[1].refusal = (401, b"Unauthorized")
    status, answer = await ask(cluster, "POST", "/abort_request", json={"abort_all": True})
    assert status == 401
    assert cluster.decode[1].url in answer["error"]["message"]
    assert [entry["status"] for entry in answer["instances"]] == [200, 200, 401]


async def test_an_instance_that_was_down_before_has_nothing_to_abort(start):
    cluster = await start(prefill=1, decode=2)
    await cluster.decode[1].die()
    assert (await ask(cluster, "POST", "/abort_request", json={"abort_all": True}))[0] == 502
    for _ in range(2):
        await ask(cluster, "POST", "/generate", json=BODY)
    assert (await ask(cluster, "POST", "/abort_request", json={"abort_all": True}))[0] == 200


@pytest.mark.parametrize("path", ["/ready", "/readiness", "/ping"])
async def test_readiness_has_its_other_names(start, path):
    cluster = await start(prefill=1, decode=1)
    assert await ask(cluster, "GET", path) == (200, {"status": "ok"})
    await cluster.decode[0].die()
    await ask(cluster, "POST", "/generate", json=BODY)
    assert (await ask(cluster, "GET", path))[0] == 503
    for path in ("/liveness", "/health"):
        assert (await ask(cluster, "GET", path))[0] == 200


async def test_list_workers_gives_the_urls(pd):
    assert await ask(pd, "GET", "/list_workers") == (200, {"urls": [pd.p.url, pd.d.url]})


@pytest.mark.parametrize("path", ["/generate", "/tokenize", "/abort_request", "/v1/embeddings"])
async def test_a_chunked_upload_over_the_limit_is_refused_and_reaches_nobody(start, path):
    cluster = await start(colocated=1, max_payload_size=1000)

    async def pieces():
        for _ in range(20):
            yield b"x" * 100

    status, answer = await ask(cluster, "POST", path, data=pieces())
    assert (status, answer["error"]["type"]) == (413, "payload_too_large")
    assert cluster.colocated[0].seen == []
