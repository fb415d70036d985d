"""The endpoints that do not generate."""

import json

import pytest


async def ask(cluster, method, path):
    async with cluster.session.request(method, cluster.url + path) as response:
        return response.status, json.loads(await response.read())


async def test_server_info_is_grouped_by_role_with_urls(start):
    cluster = await start(prefill=1, decode=2, colocated=1)
    status, info = await ask(cluster, "GET", "/server_info")
    assert status == 200
    for role in ("prefill", "decode", "colocated"):
        mocks = getattr(cluster, role)
        assert info[role] == [{"port": mock.port, "version": "mock", "url": mock.url} for mock in mocks]
    # What all have in common stands beside the roles, as a client of one server looks for it.
    assert set(info) == {"prefill", "decode", "colocated", "version"}
    assert info["version"] == "mock"
    assert await ask(cluster, "GET", "/get_server_info") == (status, info)


async def test_server_info_tells_who_cannot_be_reached(start):
    cluster = await start(prefill=1, decode=1)
    await cluster.prefill[0].die()
    _, info = await ask(cluster, "GET", "/server_info")
    assert set(info["prefill"][0]) == {"url", "error"}
    assert "version" in info["decode"][0]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_flush_cache_reaches_every_instance(start, method):
    cluster = await start(prefill=1, decode=1, colocated=1)
    status, report = await ask(cluster, method, "/flush_cache?timeout=1")
    assert status == 200
    assert report["success"] is True
    assert {entry["url"] for entry in report["instances"]} == {
        mock.url for mock in (*cluster.prefill, *cluster.decode, *cluster.colocated)
    }
    for mock in (*cluster.prefill, *cluster.decode, *cluster.colocated):
        assert [seen[0] for seen in mock.seen] == ["/flush_cache?timeout=1"]


async def test_looking_at_flush_cache_flushes_nothing(start):
    cluster = await start(colocated=1)
    async with cluster.session.head(cluster.url + "/flush_cache") as response:
        assert response.status == 405
    assert cluster.colocated[0].seen == []


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/models", "/flush_cache"])
async def test_a_browsers_preflight_is_answered_by_an_instance(start, path):
    cluster = await start(prefill=1, decode=1)
    mock = cluster.decode[0]
    mock.refusal = (200, b"OK")
    headers = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    async with cluster.session.options(cluster.url + path, headers=headers) as response:
        assert (response.status, await response.read()) == (200, b"OK")
        assert response.headers["X-From"] == "mock"
    ((target, _, got),) = mock.seen
    assert (target, got["Origin"], got["Access-Control-Request-Method"]) == (path, "http://page", "POST")
    assert cluster.prefill[0].seen == []


async def test_flush_cache_fails_if_one_instance_does(start):
    cluster = await start(colocated=2)
    cluster.colocated[0].refusal = (400, b"running requests")
    status, report = await ask(cluster, "POST", "/flush_cache")
    assert status == 400
    assert report["success"] is False
    assert [entry["status"] for entry in report["instances"]] == [400, 200]
    assert report["instances"][0]["message"] == "running requests"


@pytest.mark.parametrize("path", ["/v1/models", "/model_info", "/get_model_info"])
async def test_model_info_comes_from_a_healthy_instance(start, path):
    cluster = await start(prefill=1, decode=2, health_check_interval_secs=0.05)
    await cluster.decode[0].die()
    while (await ask(cluster, "GET", "/workers"))[1]["workers"][1]["healthy"]:
        pass
    status, info = await ask(cluster, "GET", path)
    assert (status, info["port"]) == (200, cluster.decode[1].port)


async def test_workers_lists_every_instance(start):
    cluster = await start(prefill=1, decode=1, colocated=1)
    _, listing = await ask(cluster, "GET", "/workers")
    first, *rest = listing["workers"]
    identity = first.pop("id")
    assert first == {
        "url": cluster.prefill[0].url,
        "role": "prefill",
        "bootstrap_port": 8998,
        "healthy": True,
        "trouble": None,
        "in_flight": 0,
        "charged_tokens": 0,
        "charged_seconds": 0,
        "sending_seconds": 0,
        "incompatibilities": [],
        "leaving": False,
        "circuit": "closed",
        "worker_type": "prefill",
        "is_healthy": True,
        "load": 0,
        "connection_mode": "HTTP",
    }
    assert identity not in {entry["id"] for entry in rest}
    assert (listing["total"], listing["stats"]["regular_count"]) == (3, 1)
    assert [entry["role"] for entry in rest] == ["decode", "colocated"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/no/such", 404), ("GET", "/generate", 405)])
async def test_what_is_not_served_is_named(start, method, path, status):
    cluster = await start(colocated=1)
    got, answer = await ask(cluster, method, path)
    assert got == status
    assert path in answer["error"]["message"]
    assert cluster.colocated[0].seen == []
