import pytest

from sglang_memserve.cli.status import collect, table
from sglang_memserve.cluster.errors import ClusterError


def load(running, waiting, used):
    return {
        "num_running_reqs": running,
        "num_waiting_reqs": waiting,
        "num_used_tokens": used,
        "max_total_num_tokens": 32768,
    }


async def test_loads_of_all_ranks_are_added_up(router):
    router.workers = {"workers": [{"url": router.url, "role": "prefill", "healthy": True}]}
    router.load = {"instances": [{"url": router.url, "loads": [load(1, 2, 300), load(10, 20, 3000)]}]}
    (row,) = await collect(router.url)
    assert (row["role"], row["healthy"]) == ("prefill", True)
    assert [row[key] for key in ("running", "waiting", "tokens used", "tokens total")] == [
        11,
        22,
        3300,
        65536,
    ]


async def test_an_instance_that_does_not_answer_still_has_its_row(router, free_port):
    gone = f"http://127.0.0.1:{free_port()}"
    router.workers = {"workers": [{"url": gone, "role": "decode", "healthy": False}]}
    rows = await collect(router.url)
    assert rows[0]["running"] is None
    heading, line = table(rows).splitlines()
    assert line.split() == ["decode", gone, "NO", "-", "-", "-", "-"]
    assert heading.index("healthy") == line.index("NO")


async def test_the_key_is_presented(router):
    router.api_key = "K"
    router.workers = {"workers": [{"url": "http://x:1", "role": "decode", "healthy": True}]}
    router.load = {"instances": [{"url": "http://x:1", "loads": [load(1, 2, 300)]}]}
    (row,) = await collect(router.url, "K")
    assert row["running"] == 1
    with pytest.raises(ClusterError, match="401"):
        await collect(router.url)


@pytest.mark.parametrize("answer", [[1], {"workers": "none"}, "text", {"workers": [{"role": "decode"}]}])
async def test_something_else_than_a_router_is_named(router, answer):
    router.workers = answer
    with pytest.raises(ClusterError, match="no router"):
        await collect(router.url)


async def test_no_router_at_all_is_named(free_port):
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match=url):
        await collect(url)
