"""The load of a hot prefix."""

from random import Random
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from benchmark.decisions.hot import OWN, Heat, heated, rising, workload
from benchmark.mock_engine import MockEngine
from router.cost.speeds import built_in
from sglang_memserve.bench.clusters import Builder, EngineSpec
from sglang_memserve.bench.serving.client import open_session
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.spec import InstanceSpec

PAGES = {"/model_info": b"{}", "/server_info": b'{"page_size": 16}', "/health": b""}


def test_each_rate_has_its_time_and_its_requests():
    due = rising([5.0, 50.0], 10.0, Random(1))
    assert due == sorted(due)
    assert max(due) < 20
    early = sum(at < 10 for at in due)
    assert early == pytest.approx(50, abs=25)
    assert len(due) - early == pytest.approx(500, abs=80)


def test_the_same_seed_asks_for_the_same_at_the_same_moments():
    assert rising([1.0, 2.0], 5.0, Random(7)) == rising([1.0, 2.0], 5.0, Random(7))
    assert workload([1] * 32, [0.5], Random(7)) == workload([1] * 32, [0.5], Random(7))


def test_all_prompts_begin_alike_and_go_on_each_in_its_own_way():
    sessions = workload([7] * 32, [0.5, 1.5], Random(1)).sessions
    assert [session.arrival for session in sessions] == [0.5, 1.5]
    first, second = (session.turns[0].tokens for session in sessions)
    assert first[:32] == second[:32] == (7,) * 32
    assert first[32:] != second[32:]
    assert len(first) == 32 + OWN


class Forgetful:
    """As far as the load knows the two instances."""

    def __init__(self, session, urls):
        specs = [InstanceSpec("colocated", 0, urlsplit(url).port) for url in urls]
        self.systems = tuple(SimpleNamespace(instances=(spec,)) for spec in specs)
        self.here, self.forgot = SimpleNamespace(session=session), 0

    async def forget(self):
        self.forgot += 1


async def test_prompt_tree_sends_all_to_the_holder_of_the_prefix(free_port, tmp_path):
    mocks, servers = [MockEngine(pages=dict(PAGES)) for _ in range(2)], []
    ports = [free_port() for _ in mocks]
    for mock, port in zip(mocks, ports, strict=True):
        servers.append(await mock.serve("127.0.0.1", port))
    built_in("cpu").save(tmp_path / "profile.json")
    async with open_session() as session, probe.client() as asking:
        two = Forgetful(session, [f"http://127.0.0.1:{port}" for port in ports])
        builder = Builder(EngineSpec("", ""), SimpleNamespace(pick=free_port), tmp_path, asking)
        heat = Heat(50e6, tmp_path / "profile.json", 2.0, [20.0, 40.0], 0.4, seed=3)
        found = await heated(builder, two, "prompt_tree", heat)
    for server in servers:
        server.close()
    assert two.forgot == 1
    assert len(found.records) == len(found.decisions) == sum(len(mock.bodies) for mock in mocks) - 1 > 5
    assert found.failed == 0
    assert found.share == 1
    assert min(len(mock.bodies) for mock in mocks) == 0
