"""A router that follows the feeds of its instances."""

import asyncio

import pytest
from fake_feed import HBM, PAGE, tokens


def with_feed(feed):
    return {
        "memserve": {"feed": {"endpoint": feed.endpoint, "incarnation": feed.incarnation}},
        "page_size": PAGE,
    }


async def decide(cluster, ids):
    body = {"input_ids": ids, "sampling_params": {"max_new_tokens": 1}}
    async with cluster.session.post(cluster.url + "/generate", json=body) as response:
        assert response.status == 200
    async with cluster.session.get(cluster.url + "/decisions?last=1") as response:
        (decision,) = (await response.json())["decisions"]
    return {instance["url"]: instance["cached_tokens"] for instance in decision["candidates"]}


async def workers(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        return await response.json()


async def test_a_router_routes_by_the_events_of_its_instances(start, make_feed):
    feed = make_feed()
    feed.insert(tokens(range(40)))
    cluster = await start(colocated=1, info=with_feed(feed), policy="prompt_tree")
    (mock,) = cluster.colocated
    while not (feeds := (await workers(cluster))["feeds"]) or feeds[mock.url]["hbm"]["state"] != "followed":
        await asyncio.sleep(0.01)
    assert await decide(cluster, list(range(100))) == {mock.url: 40}


@pytest.mark.parametrize(
    "settings", [{"policy": "round_robin"}, {"policy": "prompt_tree", "tree_update": "response"}]
)
async def test_no_feed_is_followed_for_a_policy_without_tokens(start, make_feed, settings):
    feed = make_feed()
    cluster = await start(colocated=1, info=with_feed(feed), **settings)
    await asyncio.sleep(0.3)
    assert (await workers(cluster))["feeds"] == {}
    assert not feed.requests


async def test_an_instance_replaced_unnoticed_is_asked_where_its_feed_is(start, make_feed):
    old, new = make_feed(), make_feed()
    new.insert(tokens(range(20)))
    cluster = await start(colocated=1, info=with_feed(old), policy="prompt_tree")
    (mock,) = cluster.colocated
    while not old.requests[HBM] > 1:
        await asyncio.sleep(0.01)
    mock.info |= with_feed(new)
    old.restart()
    while not new.requests[HBM] > 1:
        await asyncio.sleep(0.01)
    assert await decide(cluster, list(range(100))) == {mock.url: 20}
