"""Instances that point elsewhere: nobody goes there, and no key."""

import asyncio
import json

import pytest
from router_cluster import MockInstance

KEYS = {"api_key": "client-key", "worker_api_key": "worker-key", "admin_api_key": "admin-key"}
ADMIN = {"Authorization": "Bearer admin-key"}


@pytest.fixture
async def inside(free_port):
    """A server that only the router can reach, which an instance would like to ask."""
    mock = MockInstance(free_port())
    await mock.start()
    yield mock
    await mock.die()


def untouched(mock):
    return (mock.seen, mock.aborts, mock.probes, mock.info_requests) == ([], [], 0, 0)


async def ask(cluster, method, path, headers=None, **kwargs):
    headers = ADMIN if headers is None else headers
    async with cluster.session.request(method, cluster.url + path, headers=headers, **kwargs) as response:
        return response.status, await response.read()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/generate"),
        ("POST", "/tokenize"),
        ("GET", "/v1/models"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/responses/x"),
        ("POST", "/abort_request"),
        ("POST", "/flush_cache"),
        ("GET", "/v1/loads"),
        ("GET", "/health_generate"),
        ("OPTIONS", "/generate"),
    ],
)
async def test_no_request_follows_an_instance_that_points_elsewhere(start, inside, method, path):
    cluster = await start(colocated=1, disable_retries=True, **KEYS)
    cluster.colocated[0].redirect = inside.url + "/generate"
    body = None if method == "GET" else b'{"text": "a", "rid": "a"}'
    status, raw = await ask(cluster, method, path, data=body, allow_redirects=False)
    assert status in (502, 503)
    assert b"redirect" in raw
    assert untouched(inside)


async def test_no_half_of_a_pair_follows_either(start, inside):
    cluster = await start(prefill=1, decode=1, disable_retries=True, **KEYS)
    prefill, decode = cluster.prefill[0], cluster.decode[0]
    prefill.hold = decode.hold = True
    for mock in (prefill, decode):
        prefill.redirect = decode.redirect = None
        mock.redirect, mock.hold = inside.url + "/generate", False
        status, _ = await ask(cluster, "POST", "/generate", json={"text": "a"}, allow_redirects=False)
        assert status == 502
        mock.hold = True
    assert untouched(inside)


@pytest.mark.parametrize("which", ["probe_redirect", "info_redirect"])
async def test_no_probe_follows_and_the_answer_tells_nothing(start, inside, free_port, which):
    """Who adds an instance must not learn which ports inside are open."""
    cluster = await start(**KEYS)
    troubles = []
    for target in (inside.url, f"http://127.0.0.1:{free_port()}"):
        mock = MockInstance(free_port())
        setattr(mock, which, target + "/model_info")
        await mock.start()
        status, raw = await ask(cluster, "POST", "/workers", json={"url": mock.url})
        await mock.die()
        worker = json.loads(raw)["worker"]
        assert (status, worker["healthy"]) == (202, False)
        assert "307, a redirect to" in worker["trouble"]
        troubles.append(worker["trouble"].replace(target, "TARGET"))
    assert untouched(inside)
    assert troubles[0] == troubles[1]


async def test_an_instance_that_begins_to_point_elsewhere_is_down(start, inside):
    cluster = await start(colocated=1, health_check_interval_secs=0.05)
    cluster.colocated[0].probe_redirect = inside.url
    while (await ask(cluster, "GET", "/readiness"))[0] != 503:
        await asyncio.sleep(0.01)
    assert "redirect" in (await ask(cluster, "GET", "/readiness"))[1].decode()
    assert untouched(inside)


async def test_the_routers_own_aborts_follow_nobody(start, inside):
    cluster = await start(colocated=1, **KEYS)
    mock = cluster.colocated[0]
    mock.hold_after = 1
    async with cluster.session.post(
        cluster.url + "/generate", json={"text": "a", "rid": "r", "stream": True}, headers=ADMIN
    ) as response:
        await response.content.readany()
        mock.redirect = inside.url + "/abort_request"
    await mock.aborted.wait()
    await asyncio.sleep(0.7)
    assert untouched(inside)
