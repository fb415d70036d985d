"""Routers come and go before instances that stay."""

import contextlib
import itertools
import json

import pytest

from benchmark.mock_engine import MockEngine
from benchmark.policies import cluster as module
from benchmark.policies import contenders
from benchmark.policies.cluster import ROLES, PoliciesCluster, raised
from sglang_memserve.bench import children
from sglang_memserve.bench.clusters import Builder, EngineSpec, System
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.bench.serving.client import open_session
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.probe import client
from sglang_memserve.cluster.supervisor import Member

PAGES = {"/decisions?last=1000": b'{"decisions": [1]}', "/workers": b'{"routing": {}}'}


@pytest.fixture
def started(monkeypatch):
    """Members that would have been started, in order; none is."""
    names = []

    @contextlib.asynccontextmanager
    async def running(members, _=0.0):
        names.extend(member.name for member in members)
        yield

    monkeypatch.setattr(children, "running", running)
    return names


@pytest.fixture
async def router(free_port, monkeypatch):
    """A mock that stands for every router."""
    mock, port = MockEngine(), free_port()
    server = await mock.serve("127.0.0.1", port)
    url = f"http://127.0.0.1:{port}"

    def target_of(name, builder, instances, peers, profile):
        return System(name, url, tuple(instances), Member(f"{name}-router", [], {}, builder.logs, None))

    monkeypatch.setattr(contenders, "target_of", target_of)
    mock.pages |= PAGES
    yield mock
    server.close()


@pytest.fixture
async def cluster(router, started, tmp_path):
    async with client() as probing, open_session() as session:
        builder = Builder(EngineSpec("/models/m", "torch_native"), None, tmp_path, probing)
        yield PoliciesCluster(builder, session, StockPeers(tmp_path), (), tmp_path)


async def test_each_turn_has_a_router_of_its_own_whose_decisions_are_kept(cluster, started, tmp_path):
    for name in ("session", "random"):
        async with cluster.serving([contenders.arm(name)]) as (target,):
            assert target.name == name
    assert started == ["session-router", "random-router"]
    kept = sorted(path.name for path in tmp_path.glob("decisions-*"))
    assert kept == ["decisions-1-session.json", "decisions-2-random.json"]
    assert json.loads((tmp_path / kept[0]).read_bytes()) == {"decisions": [1], "routing": {}}


async def test_sglang_router_has_no_decisions_to_keep(cluster, router, tmp_path):
    async with cluster.serving([contenders.arm(contenders.PEER)]):
        pass
    assert not list(tmp_path.glob("decisions-*"))
    assert not router.calls


async def test_a_router_that_goes_by_tokens_is_measured_when_it_has_a_tokenizer(cluster, router, monkeypatch):
    class Later(dict):
        asked = 0

        def get(self, path):
            if path != "/explain":
                return super().get(path)
            self.asked += 1
            return json.dumps({"tokenised": self.asked > 2}).encode()

    monkeypatch.setattr(module, "_POLL_S", 0.01)
    router.pages = Later(router.pages)
    async with cluster.serving([contenders.arm(contenders.COST_MODEL)]):
        assert router.pages.asked == 3
    monkeypatch.setattr(module, "_TOKENISES_S", 0.0)
    router.pages.asked = -99
    with pytest.raises(ClusterError, match="has no tokenizer"):
        async with cluster.serving([contenders.arm(contenders.PROMPT_TREE)]):
            pass


async def test_each_prefill_instance_is_rehearsed_with_prompts_of_its_own(cluster, router):
    await cluster.rehearse(tokens=40)
    prompts = {tuple(body["input_ids"]) for body in router.bodies}
    assert len(prompts) == len(router.bodies) == 2 * ROLES.count("prefill")
    assert {len(prompt) for prompt in prompts} == {40}


async def test_a_cluster_that_does_not_answer_is_not_measured(cluster, router):
    router.fails = {0: 500}
    with pytest.raises(ClusterError, match="does not answer: 500"):
        await cluster.rehearse(tokens=4)


async def test_instances_have_names_and_ports_of_their_own_and_one_registry(started, tmp_path):
    class Ports:
        def __init__(self):
            self._next = itertools.count(20000)

        def pick(self):
            return next(self._next)

    builder = Builder(EngineSpec("/models/m", "torch_native"), Ports(), tmp_path, None)
    async with raised(builder, None, StockPeers(tmp_path), None) as cluster:
        names = ["cluster-prefill-0", "cluster-prefill-1", "cluster-prefill-2", "cluster-decode-0"]
        assert started == ["registry", *names]
        ports = [port for spec in cluster.instances for port in (spec.port, spec.bootstrap_port) if port]
        assert len(set(ports)) == len(ports) == 7
        assert len({spec.registries for spec in cluster.instances}) == 1
        assert all("--memserve-caching" in spec.argv() for spec in cluster.instances)
