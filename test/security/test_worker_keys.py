"""The instances' key goes to instances that an administrator named, and to nobody else."""

import pytest
from router_cluster import MockInstance

ADMIN, CLIENT = ({"Authorization": f"Bearer {key}"} for key in ("admin-key", "client-key"))
KEYS = {"api_key": "client-key", "worker_api_key": "worker-key"}
ADMIN_KEYS = {**KEYS, "admin_api_key": "admin-key"}


@pytest.fixture
async def stranger(free_port):
    mock = MockInstance(free_port())
    await mock.start()
    yield mock
    await mock.die()


async def ask(cluster, method, path, headers, **kwargs):
    async with cluster.session.request(method, cluster.url + path, headers=headers, **kwargs) as response:
        return response.status


async def presented(cluster, mock, headers):
    """Every key that the router has presented there, having asked all that it can."""
    for method, path in (
        ("POST", "/generate"),
        ("POST", "/generate"),
        ("POST", "/v1/embeddings"),
        ("POST", "/abort_request"),
        ("POST", "/flush_cache"),
        ("GET", "/server_info"),
        ("GET", "/v1/loads"),
        ("GET", "/health_generate"),
        ("OPTIONS", "/generate"),
    ):
        body = b'{"text": "a", "rid": ""}' if method == "POST" else None
        await ask(cluster, method, path, headers, data=body)
    assert mock.probes
    assert mock.seen
    seen = [headers.get("Authorization") for _, _, headers in mock.seen]
    return {*seen, *mock.presented, *(headers.get("Authorization") for _, headers in mock.aborts)}


async def test_a_clients_worker_does_not_get_the_key(start, stranger):
    cluster = await start(colocated=1, **KEYS)
    assert await ask(cluster, "POST", "/workers", CLIENT, json={"url": stranger.url}) == 202
    assert await presented(cluster, stranger, CLIENT) == {None}
    assert await presented(cluster, cluster.colocated[0], CLIENT) == {"Bearer worker-key"}


async def test_with_an_admin_key_a_client_adds_none(start, stranger):
    cluster = await start(colocated=1, **ADMIN_KEYS)
    for path in ("/workers", f"/add_worker?url={stranger.url}"):
        assert await ask(cluster, "POST", path, CLIENT, json={"url": stranger.url}) == 403
    assert stranger.probes == 0


async def test_an_administrators_worker_gets_the_key(start, stranger):
    cluster = await start(**ADMIN_KEYS)
    assert await ask(cluster, "POST", "/workers", ADMIN, json={"url": stranger.url}) == 202
    assert await presented(cluster, stranger, ADMIN) == {"Bearer worker-key"}


@pytest.mark.parametrize(("keys", "who"), [({}, {}), (KEYS, CLIENT), (ADMIN_KEYS, ADMIN)])
async def test_a_worker_may_have_a_key_of_its_own(start, stranger, keys, who):
    cluster = await start(**keys)
    worker = {"url": stranger.url, "api_key": "its-own"}
    async with cluster.session.post(cluster.url + "/workers", json=worker, headers=who) as response:
        assert response.status == 202
        assert "its-own" not in await response.text()
    assert await presented(cluster, stranger, who) == {"Bearer its-own"}


async def test_a_removed_worker_comes_back_without_the_key(start):
    cluster = await start(colocated=2, **KEYS)
    known = cluster.colocated[0]
    assert await ask(cluster, "DELETE", f"/workers/{known.url}", CLIENT) == 202
    known.presented.clear()
    assert await ask(cluster, "POST", "/workers", CLIENT, json={"url": known.url}) == 202
    known.seen.clear()
    assert await presented(cluster, known, CLIENT) == {None}


async def test_the_admin_key_reaches_no_instance(start):
    cluster = await start(colocated=1, admin_api_key="admin-key")
    assert await presented(cluster, cluster.colocated[0], ADMIN | {"X-Api-Key": "admin-key"}) == {None}
    assert all(b"admin-key" not in repr(seen).encode() for seen in cluster.colocated[0].seen)
