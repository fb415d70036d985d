"""Instances that are added and removed while the router serves."""

import asyncio
import json
from urllib.parse import quote

import pytest

BODY = {"text": "hi"}


async def ask(cluster, method, path, body=None, **headers):
    async with cluster.session.request(method, cluster.url + path, json=body, headers=headers) as response:
        return response.status, json.loads(await response.read() or b"null")


async def listed(cluster):
    return {entry["url"]: entry for entry in (await ask(cluster, "GET", "/workers"))[1]["workers"]}


@pytest.fixture
async def spare(start):
    """Living instances that no router knows."""
    return (await start(colocated=3)).colocated


async def test_a_router_without_instances_serves_once_one_was_added(start, spare):
    cluster = await start()
    status, answer = await ask(cluster, "POST", "/generate", BODY)
    assert (status, answer["error"]["type"]) == (503, "no_instance")
    assert "POST /workers" in answer["error"]["message"]
    for path, expected in (("/health", 200), ("/ping", 200), ("/readiness", 503), ("/ready", 503)):
        assert (await ask(cluster, "GET", path))[0] == expected
    for path in ("/flush_cache", "/abort_request"):
        assert (await ask(cluster, "POST", path, {}))[0] == 503
    status, added = await ask(cluster, "POST", "/workers", {"url": spare[0].url + "/"})
    assert (status, added["status"], added["url"]) == (202, "accepted", spare[0].url)
    assert added["worker"]["is_healthy"] is True
    assert (await ask(cluster, "GET", added["location"]))[1] == added["worker"]
    assert (await ask(cluster, "POST", "/generate", BODY))[0] == 200
    assert (await ask(cluster, "GET", "/health"))[0] == 200


async def test_a_pair_is_added_half_by_half(start, spare):
    cluster = await start()
    prefill = {"url": spare[0].url, "worker_type": "prefill", "bootstrap_port": 9001}
    assert (await ask(cluster, "POST", "/workers", prefill))[0] == 202
    message = (await ask(cluster, "POST", "/generate", BODY))[1]["error"]["message"]
    assert "no decode instance" in message
    assert (await ask(cluster, "POST", "/workers", {"url": spare[1].url, "worker_type": "decode"}))[0] == 202
    assert (await ask(cluster, "POST", "/generate", BODY))[0] == 200
    assert [mock.bodies[0]["bootstrap_port"] for mock in spare[:2]] == [9001, 9001]
    stats = (await ask(cluster, "GET", "/workers"))[1]["stats"]
    assert stats == {"prefill_count": 1, "decode_count": 1, "regular_count": 0}


async def test_the_old_way_is_by_query(start, spare):
    cluster = await start(colocated=1)
    assert (await ask(cluster, "POST", f"/add_worker?url={spare[0].url}"))[0] == 200
    urls = [cluster.colocated[0].url, spare[0].url]
    assert (await ask(cluster, "GET", "/list_workers"))[1] == {"urls": urls}
    assert (await ask(cluster, "POST", f"/remove_worker?url={urls[0]}"))[0] == 200
    assert (await ask(cluster, "GET", "/list_workers"))[1] == {"urls": urls[1:]}
    assert (await ask(cluster, "POST", "/remove_worker"))[0] == 404


async def test_one_that_is_down_is_added_and_serves_when_it_is_up(start, spare):
    cluster = await start(health_check_interval_secs=0.05)
    await spare[0].die()
    status, added = await ask(cluster, "POST", "/workers", {"url": spare[0].url})
    assert (status, added["worker"]["is_healthy"]) == (202, False)
    assert "connection refused" in added["message"]
    await spare[0].start()
    while not (await listed(cluster))[spare[0].url]["healthy"]:
        await asyncio.sleep(0.01)
    assert (await ask(cluster, "POST", "/generate", BODY))[0] == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], ["url"]),
        ({"url": 1}, ["url"]),
        ({"url": "nonsense"}, ["'nonsense'", "http://"]),
        ({"url": "http://prefill-0..svc:30001"}, ["prefill-0..svc", "http://"]),
        ({"url": f"http://{'a' * 64}:30001"}, ["aaa", "http://"]),
        ({"url": "http://a:1", "worker_type": "encode"}, ["'encode'", "prefill"]),
        ({"url": "http://a:1", "worker_type": "prefill", "bootstrap_port": "x"}, ["'x'"]),
        ({"url": "http://a:1", "worker_type": "prefill", "bootstrap_port": 70000}, ["70000"]),
        ({"url": "http://a:1", "api_key": "k\nX: y"}, ["api_key: give a key of printable ASCII"]),
        ({"url": "http://a:1", "api_key": "k" * 4097}, ["api_key: a key has 4096 characters at most"]),
        ({"url": "http://a:1", "api_key": ["k"]}, ["api_key: give a key of printable ASCII"]),
    ],
)
async def test_what_cannot_be_added_is_named(start, body, words):
    cluster = await start()
    status, answer = await ask(cluster, "POST", "/workers", body)
    assert status == 400
    for word in words:
        assert word in answer["error"]["message"]
    assert await listed(cluster) == {}


async def test_one_url_is_one_instance(start):
    cluster = await start(colocated=1)
    url = cluster.colocated[0].url
    for kind in ("regular", "decode"):
        status, answer = await ask(cluster, "POST", "/workers", {"url": url, "worker_type": kind})
        assert status == 409
        assert url in answer["error"]["message"]
    assert len(await listed(cluster)) == 1


async def test_who_is_unknown_cannot_be_removed(start):
    cluster = await start(colocated=1)
    for method in ("GET", "DELETE"):
        assert (await ask(cluster, method, "/workers/nobody"))[0] == 404


@pytest.mark.parametrize("by", ["id", "url", "quoted"])
async def test_a_removed_instance_ends_what_it_has_and_gets_nothing_more(start, by):
    cluster = await start(colocated=2)
    busy, other = cluster.colocated
    busy.hold = True
    running = asyncio.create_task(ask(cluster, "POST", "/generate", BODY | {"rid": "mine"}))
    await busy.arrived.wait()
    entry = (await listed(cluster))[busy.url]
    name = quote(busy.url, safe="") if by == "quoted" else entry[by]
    status, answer = await ask(cluster, "DELETE", f"/workers/{name}")
    assert (status, answer["worker_id"]) == (202, entry["id"])
    for _ in range(4):
        assert (await ask(cluster, "POST", "/generate", BODY))[0] == 200
    assert (len(busy.seen), len(other.seen)) == (1, 4)
    # It is still seen, and heard: a client may abort what runs there.
    assert (await listed(cluster))[busy.url]["leaving"] is True
    await ask(cluster, "POST", "/abort_request", {"rid": "mine"})
    assert [body["rid"] for body, _ in busy.aborts] == ["mine"]
    assert (await ask(cluster, "POST", "/workers", {"url": busy.url}))[0] == 409
    busy.hold = False
    busy.release.set()
    assert (await running)[0] == 200
    while busy.url in await listed(cluster):
        await asyncio.sleep(0.01)
    assert (await ask(cluster, "GET", f"/workers/{name}"))[0] == 404
    # It may come back, as another one.
    assert (await ask(cluster, "POST", "/workers", {"url": busy.url}))[0] == 202
    for _ in range(2):
        assert (await ask(cluster, "POST", "/generate", BODY))[0] == 200
    assert len(busy.seen) == 2


async def test_an_instance_that_never_gets_idle_is_removed_and_its_requests_run(start):
    cluster = await start(colocated=1, request_timeout_secs=0.5)
    mock = cluster.colocated[0]
    mock.chunks *= 10_000
    async with cluster.session.post(cluster.url + "/generate", json={"stream": True}) as response:
        await response.content.readany()
        await ask(cluster, "DELETE", f"/workers/{mock.url}")
        assert mock.url in await listed(cluster)
        async with asyncio.timeout(5):
            while mock.url in await listed(cluster):
                await asyncio.sleep(0.01)
        for _ in range(3):
            assert await response.content.readany()
        assert not mock.aborted.is_set()


async def test_one_that_was_removed_is_not_probed_any_more(start):
    cluster = await start(colocated=2, health_check_interval_secs=0.02)
    removed, other = cluster.colocated
    await removed.probed(times=1)
    assert (await ask(cluster, "DELETE", f"/workers/{removed.url}"))[0] == 202
    while removed.url in await listed(cluster):
        await asyncio.sleep(0.01)
    await other.probed(times=2)
    removed.probes = 0
    await other.probed(times=5)
    assert removed.probes == 0


async def with_a_prefix(start):
    """A cluster, a prompt, and the one of its two instances that has it now."""
    cluster = await start(colocated=2, policy="prompt_tree", info={"page_size": 1})
    for mock in cluster.colocated:
        mock.answer = b'{"text": "", "output_ids": [1], "meta_info": {"prompt_tokens": 64}}'
    body = {"input_ids": list(range(64))}
    await ask(cluster, "POST", "/generate", body)
    return cluster, body, next(mock for mock in cluster.colocated if mock.seen)


async def test_a_tree_forgets_who_was_removed(start):
    cluster, body, has = await with_a_prefix(start)
    await ask(cluster, "DELETE", f"/workers/{has.url}")
    await ask(cluster, "POST", "/workers", {"url": has.url})
    await ask(cluster, "POST", "/generate", body)
    decision = (await ask(cluster, "GET", "/decisions?last=1"))[1]["decisions"][0]
    assert decision["predicted_cached_tokens"] == 0


async def test_who_leaves_is_not_in_the_tree_while_its_last_requests_run(start):
    cluster, body, has = await with_a_prefix(start)
    has.hold = True
    running = asyncio.create_task(ask(cluster, "POST", "/generate", body))
    await has.arrived.wait()
    await ask(cluster, "DELETE", f"/workers/{has.url}")
    decision = (await ask(cluster, "POST", "/explain", body))[1]
    assert all(candidate["cached_tokens"] == 0 for candidate in decision["candidates"])
    has.release.set()
    await running


async def test_an_added_instance_may_tell_of_its_tokenizer(start, spare, caplog):
    cluster = await start(policy="prompt_tree")
    spare[0].info["tokenizer_path"] = "/no/such/tokenizer"
    await ask(cluster, "POST", "/workers", {"url": spare[0].url})
    await ask(cluster, "POST", "/generate", BODY)
    while "no tokenizer at /no/such/tokenizer" not in caplog.text:
        await asyncio.sleep(0.01)


async def test_who_may_change_workers(start, spare):
    keyed = await start(colocated=1, api_key="k")
    added = {"url": spare[0].url}
    for method, path in (("POST", "/workers"), ("DELETE", f"/workers/{keyed.colocated[0].url}")):
        assert (await ask(keyed, method, path, added))[0] == 401
    assert (await ask(keyed, "POST", "/workers", added, Authorization="Bearer k"))[0] == 202
    # Nobody is known to administer it.
    open_to_all = await start(colocated=1, worker_api_key="w")
    status, answer = await ask(open_to_all, "POST", "/workers", added)
    assert status == 403
    assert "--admin-api-key" in answer["error"]["message"]
    assert not any("Authorization" in headers for _, _, headers in spare[0].seen)
