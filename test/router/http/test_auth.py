"""API keys, towards clients and towards instances."""

import json
import logging

import pytest

from router.http.endpoints import ENDPOINTS

PUBLIC = ["/health", "/health_generate", "/liveness", "/metrics", "/ready", "/readiness"]
KEYS = {"api_key": "client-key", "worker_api_key": "worker-key"}
RIGHT = {"Authorization": "Bearer client-key"}


async def ask(cluster, method, path, headers=None, **kwargs):
    async with cluster.session.request(method, cluster.url + path, headers=headers, **kwargs) as response:
        return response.status, await response.read(), response.headers


def authorizations(mock):
    return [seen[2].get("Authorization") for seen in mock.seen]


@pytest.mark.parametrize(
    "given",
    [None, "", "client-key", "Bearer", "Bearer ", "Bearer wrong", "Basic client-key", "Bearer client-keys"],
)
async def test_who_does_not_present_the_key_gets_401_and_reaches_nobody(start, given):
    cluster = await start(prefill=1, decode=1, **KEYS)
    headers = {} if given is None else {"Authorization": given}
    for endpoint in ENDPOINTS:
        if endpoint.path in PUBLIC:
            continue
        path = endpoint.path.replace("{model:.+}", "m").replace("{response_id}", "r")
        status, raw, answered = await ask(cluster, endpoint.methods[0], path, headers, data=b"{}")
        assert (path, status, answered["WWW-Authenticate"]) == (path, 401, "Bearer")
        assert json.loads(raw)["error"]["type"] == "authentication_error"
        assert b"client-key" not in raw
    assert (await ask(cluster, "GET", "/no/such", headers))[0] == 401
    assert cluster.prefill[0].seen == cluster.decode[0].seen == []


async def test_bytes_that_are_no_text_are_a_wrong_key(start):
    cluster = await start(colocated=1, **KEYS)
    assert (await ask(cluster, "GET", "/workers", {"Authorization": "Bearer cliént"}))[0] == 401


@pytest.mark.parametrize("path", PUBLIC)
async def test_probes_need_no_key(start, path):
    cluster = await start(prefill=1, decode=1, **KEYS)
    assert (await ask(cluster, "GET", path))[0] == 200


async def test_nor_does_a_browser_that_asks_what_it_may(start):
    cluster = await start(prefill=1, decode=1, **KEYS)
    assert (await ask(cluster, "OPTIONS", "/generate"))[0] == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_who_presents_the_key_is_served(start, scheme):
    cluster = await start(prefill=1, decode=1, **KEYS)
    headers = {"Authorization": f"{scheme} client-key"}
    assert (await ask(cluster, "POST", "/generate", headers, json={"text": "a"}))[0] == 200
    assert (await ask(cluster, "GET", "/workers", headers))[0] == 200


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        (KEYS, "Bearer worker-key"),
        ({"worker_api_key": "worker-key"}, "Bearer worker-key"),
        ({"api_key": "client-key"}, None),
        ({}, "Bearer client-key"),
    ],
)
async def test_what_instances_get(start, keys, sent):
    cluster = await start(prefill=1, decode=1, colocated=1, **keys)
    headers = {**RIGHT, "X-Api-Key": "client-key"}
    for method, path in (
        *[("POST", "/generate")] * 2,
        ("POST", "/tokenize"),
        ("POST", "/v1/embeddings"),
        ("POST", "/abort_request"),
        ("POST", "/flush_cache"),
        ("GET", "/server_info"),
        ("GET", "/v1/loads"),
        ("OPTIONS", "/generate"),
        ("GET", "/health_generate"),
    ):
        await ask(cluster, method, path, headers, data=b'{"text": "a"}' if method == "POST" else None)
    for mock in (*cluster.prefill, *cluster.decode, *cluster.colocated):
        assert len(mock.seen) >= 4
        assert set(authorizations(mock)) == {sent}
        if keys:
            assert all("X-Api-Key" not in seen[2] for seen in mock.seen)
            assert all(b"client-key" not in repr(seen).encode() for seen in mock.seen)


@pytest.mark.parametrize(("keys", "status"), [({"worker_api_key": "stale"}, 503), ({}, 200)])
async def test_an_instance_that_refuses_the_routers_key_is_down(start, caplog, keys, status):
    cluster = await start(colocated=1, health_check_interval_secs=0.05, **keys)
    cluster.colocated[0].probe_status = 401
    with caplog.at_level(logging.DEBUG):
        for _ in range(20):
            got, raw, _ = await ask(cluster, "GET", "/workers")
        while (await ask(cluster, "GET", "/readiness"))[0] != status:
            pass
        got, raw, _ = await ask(cluster, "GET", "/readiness")
    assert got == status
    if keys:
        assert b"--worker-api-key" in raw
        assert b"stale" not in raw
        assert "stale" not in caplog.text


async def test_no_answer_of_the_router_shows_a_key(start):
    cluster = await start(prefill=1, decode=1, **KEYS)
    for path in ("/workers", "/server_info", "/openapi.json", "/list_workers"):
        _, raw, _ = await ask(cluster, "GET", path, RIGHT)
        assert b"client-key" not in raw
        assert b"worker-key" not in raw


async def test_a_key_that_an_instance_tells_of_itself_is_blanked_out(start):
    cluster = await start(colocated=1)
    info = {"api_key": "k1", "launch_command": "--api-key k1", "internal_states": [{"admin_api_key": "k2"}]}
    cluster.colocated[0].info = info
    _, raw, _ = await ask(cluster, "GET", "/server_info")
    entry = json.loads(raw)["colocated"][0]
    assert entry["api_key"] == "<redacted>"
    assert entry["launch_command"] == "--api-key <redacted>"
    assert entry["internal_states"] == [{"admin_api_key": "<redacted>"}]
