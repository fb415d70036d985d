"""API keys, towards clients and towards instances."""

import json
import logging
import re

import pytest
from aiohttp import web

from router.config.settings import ConfigError, RouterConfig
from router.http.endpoints import ENDPOINTS, routes

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


ADMIN_KEYS = {**KEYS, "admin_api_key": "admin-key"}
ADMINISTERS = {
    ("GET", "/flush_cache"),
    ("POST", "/flush_cache"),
    ("GET", "/server_info"),
    ("GET", "/get_server_info"),
    ("GET", "/v1/loads"),
    ("GET", "/workers"),
    ("POST", "/workers"),
    ("GET", "/workers/{worker}"),
    ("DELETE", "/workers/{worker}"),
    ("POST", "/add_worker"),
    ("POST", "/remove_worker"),
    ("GET", "/list_workers"),
    ("GET", "/decisions"),
    ("POST", "/explain"),
}


def every_route():
    """Method and path of each route that the application has, from aiohttp's own table."""
    app = web.Application()
    app.add_routes(routes())
    return sorted({(route.method, route.resource.canonical) for route in app.router.routes()})


@pytest.mark.parametrize(("method", "path"), every_route(), ids=lambda value: value)
async def test_each_route_opens_to_its_keys_and_no_other(start, method, path):
    cluster = await start(colocated=1, **ADMIN_KEYS)
    listed = ("GET" if method == "HEAD" else method, path)
    url = re.sub(r"{\w+}", "x", path)
    allowed, body = {}, b'{"rid": "a", "text": "a"}'
    for key in ("", "wrong", "worker-key", "client-key", "admin-key"):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        status, raw, _ = await ask(cluster, method, url, headers, data=None if method == "GET" else body)
        allowed[key] = status if status in (401, 403) else "opens"
        if status == 403:
            assert method == "HEAD" or json.loads(raw)["error"]["type"] == "forbidden"
    nobody = "opens" if path in PUBLIC or method == "OPTIONS" else 401
    client = 403 if listed in ADMINISTERS and method != "OPTIONS" else "opens"
    assert allowed == {
        "": nobody,
        "wrong": nobody,
        "worker-key": nobody,
        "client-key": client,
        "admin-key": "opens",
    }


async def test_with_an_admin_key_alone_everybody_generates(start):
    cluster = await start(colocated=1, admin_api_key="admin-key")
    assert (await ask(cluster, "POST", "/generate", json={"text": "a"}))[0] == 200
    assert (await ask(cluster, "GET", "/workers"))[0] == 401
    right = {"Authorization": "Bearer admin-key"}
    assert (await ask(cluster, "GET", "/workers", right))[0] == 200
    assert (await ask(cluster, "POST", "/generate", right, json={"text": "a"}))[0] == 200
    assert set(authorizations(cluster.colocated[0])) == {None}


@pytest.mark.parametrize(("keys", "opens"), [(ADMIN_KEYS, "admin-key"), (KEYS, "client-key")])
async def test_metrics_take_a_key_where_asked(start, keys, opens):
    cluster = await start(colocated=1, metrics_require_key=True, **keys)
    for key in ("", "worker-key", "client-key", "admin-key"):
        status = (await ask(cluster, "GET", "/metrics", {"Authorization": f"Bearer {key}"}))[0]
        assert (status == 200) == (key == opens)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"admin_api_key": "k", "api_key": "k"}, "another key's value"),
        ({"admin_api_key": "k", "worker_api_key": "k"}, "another key's value"),
        ({"metrics_require_key": True}, "--metrics-require-key without a key"),
    ],
)
def test_keys_that_would_guard_nothing_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        RouterConfig(**settings)


EVERYBODYS = [
    b'{"abort_all": true}',
    b'{"abort_all": "true", "rid": "a"}',
    b'{"abort_all": 1, "rid": "a"}',
    b'{"rid": ""}',
    b'{"rid": null}',
    b'{"rid": ["a", ""]}',
    b"{}",
    b'{"rid": "a", "abort_all": true, "x": NaN}',
    '{"abort_all": true}'.encode("utf-16"),
    b"",
]


@pytest.mark.parametrize("raw", EVERYBODYS, ids=repr)
async def test_an_abort_of_everybodys_requests_takes_the_admin_key(start, raw):
    cluster = await start(colocated=1, **ADMIN_KEYS)
    status, answer, _ = await ask(cluster, "POST", "/abort_request", RIGHT, data=raw)
    assert (status, json.loads(answer)["error"]["type"]) == (403, "forbidden")
    assert cluster.colocated[0].aborts == []
    named = await ask(cluster, "POST", "/abort_request", RIGHT, data=b'{"rid": "mine"}')
    assert (named[0], len(cluster.colocated[0].aborts)) == (200, 1)
    admin = {"Authorization": "Bearer admin-key"}
    assert (await ask(cluster, "POST", "/abort_request", admin, data=raw))[0] in (200, 400)


async def test_without_an_admin_key_a_clients_key_aborts_all(start):
    cluster = await start(colocated=1, **KEYS)
    assert (await ask(cluster, "POST", "/abort_request", RIGHT, data=b'{"abort_all": true}'))[0] == 200
    assert len(cluster.colocated[0].aborts) == 1
