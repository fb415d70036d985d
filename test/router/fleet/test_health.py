"""Instances that go, come back, or are slow to answer."""

import asyncio
import json

from router.config.settings import RouterConfig
from router.fleet.health import HealthWatch
from router.instances.client import InstanceClient
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.protocol.tls import ClientTls

BODY = {"text": "hi"}


async def post(cluster):
    async with cluster.session.post(cluster.url + "/generate", json=BODY) as response:
        return response.status, json.loads(await response.read())


async def health(cluster):
    async with cluster.session.get(cluster.url + "/readiness") as response:
        return response.status, json.loads(await response.read())


async def until_health(cluster, wanted):
    while (await health(cluster))[0] != wanted:
        await asyncio.sleep(0.01)


async def test_health_needs_prefill_and_decode_or_one_colocated_instance(start):
    pair = await start(prefill=1, decode=1, health_check_interval_secs=0.05)
    assert (await health(pair))[0] == 200
    await pair.prefill[0].die()
    await until_health(pair, 503)
    assert pair.prefill[0].url in (await health(pair))[1]["error"]["message"]
    assert pair.decode[0].url not in (await health(pair))[1]["error"]["message"]
    mixed = await start(prefill=1, decode=1, colocated=1, health_check_interval_secs=0.05)
    await mixed.prefill[0].die()
    assert (await health(mixed))[0] == 200


async def test_a_refused_connection_takes_the_instance_out_at_once(start):
    cluster = await start(colocated=2)
    dead, alive = cluster.colocated
    await dead.die()
    statuses = [(await post(cluster))[0] for _ in range(6)]
    assert statuses == [200] * 6
    assert len(alive.seen) == 6


async def test_with_nobody_left_the_answer_is_503_and_names_them(start):
    cluster = await start(prefill=1, decode=1)
    await cluster.decode[0].die()
    assert (await post(cluster))[0] == 502
    status, answer = await post(cluster)
    assert status == 503
    assert cluster.decode[0].url in answer["error"]["message"]
    assert answer["error"]["type"] == "no_instance"


async def test_a_restarted_instance_serves_the_next_request_once_probed(start):
    cluster = await start(prefill=1, decode=1, health_check_interval_secs=0.05)
    assert (await post(cluster))[0] == 200
    for mock in (cluster.prefill[0], cluster.decode[0]):
        await mock.die()
        await until_health(cluster, 503)
        await mock.start()
        await until_health(cluster, 200)
        assert (await post(cluster))[0] == 200


async def test_a_restart_that_no_probe_saw_does_not_fail_the_next_request(start):
    cluster = await start(prefill=1, decode=1)
    assert (await post(cluster))[0] == 200
    for mock in (cluster.prefill[0], cluster.decode[0]):
        await mock.die()
        await mock.start()
    assert (await post(cluster))[0] == 200


async def test_one_broken_connection_does_not_take_a_living_instance_out(start):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.hold = True
    request = asyncio.create_task(post(cluster))
    await mock.arrived.wait()
    mock.hold = False
    for connection in mock._runner.server.connections:
        connection.transport.abort()
    assert (await request)[0] == 200
    assert (await health(cluster))[0] == 200


async def test_failing_probes_count_only_when_they_repeat(start):
    cluster = await start(colocated=1, health_check_interval_secs=0.05, health_failure_threshold=10_000)
    cluster.colocated[0].probe_status = 500
    await cluster.colocated[0].probed(times=4)
    assert (await health(cluster))[0] == 200
    strict = await start(colocated=1, health_check_interval_secs=0.05, health_failure_threshold=2)
    strict.colocated[0].probe_status = 500
    await until_health(strict, 503)


async def test_an_instance_that_starts_after_the_router_is_found(start):
    cluster = await start(colocated=1, health_check_interval_secs=0.05)
    mock = cluster.colocated[0]
    await mock.die()
    await until_health(cluster, 503)
    mock.probe_status = 500
    await mock.start()
    await mock.probed(times=3)
    assert (await health(cluster))[0] == 503
    mock.probe_status = 200
    await until_health(cluster, 200)


async def test_an_address_that_cannot_be_one_is_down_and_ends_nothing():
    async with InstanceClient(ClientTls()) as client:
        odd = Instance("http://a..b:1", Role.COLOCATED)
        watch = HealthWatch(Registry([odd]), client, RouterConfig())
        await watch.probe(odd)
        assert not odd.healthy
        assert odd.trouble


async def test_an_instance_gets_requests_once_its_server_info_is_known(start):
    cluster = await start(colocated=1, health_check_interval_secs=0.05)
    mock = cluster.colocated[0]
    await mock.die()
    await until_health(cluster, 503)
    mock.info_held, mock.info_requests = asyncio.Event(), 0
    await mock.start()
    while not mock.info_requests:
        await asyncio.sleep(0.01)
    assert (await health(cluster))[0] == 503
    mock.info_held.set()
    await until_health(cluster, 200)
