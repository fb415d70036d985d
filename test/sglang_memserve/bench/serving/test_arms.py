"""How each system is started: alike in all but what is compared."""

import contextlib

import pytest

from sglang_memserve.bench.clusters import Builder, EngineSpec
from sglang_memserve.bench.peers import StockPeers
from sglang_memserve.bench.serving import arms
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.ports import PortPicker


@pytest.fixture
def commands(tmp_path, free_port):
    """The commands of an arm's instances, by role."""
    with PortPicker("127.0.0.1", free_port()) as ports:
        engine = EngineSpec(
            model=str(tmp_path), attention_backend="a", threads=2, pool_tokens=512, extra=("--e", "1")
        )
        builder = Builder(engine, ports, tmp_path, session=None)

        def of(name):
            system = arms.ARMS[name].system(builder, StockPeers(tmp_path))
            return {spec.role: spec.argv() for spec in system.instances}

        yield of


def value(argv, flag):
    return argv[len(argv) - argv[::-1].index(flag)]


@pytest.mark.parametrize("name", list(arms.ARMS))
def test_instances_of_every_arm_have_the_same_engine(commands, name):
    found = commands(name)
    assert len(found) == arms.ARMS[name].instances
    for argv in found.values():
        assert value(argv, "--attention-backend") == "a"
        assert value(argv, "--max-total-tokens") == "512"
        assert value(argv, "--page-size") == "16"
        assert value(argv, "--e") == "1"


@pytest.mark.parametrize(
    ("name", "role", "radix"),
    [
        ("colocated", "colocated", True),
        ("colocated-no-radix", "colocated", False),
        ("stock-pd", "prefill", True),
        ("stock-pd", "decode", False),
        ("stock-pd-radix", "decode", True),
        ("memserve-pd", "decode", True),
    ],
)
def test_arms_differ_in_where_there_is_a_radix_cache(commands, name, role, radix):
    argv = commands(name)[role]
    assert ("--disable-radix-cache" in argv) is not radix


@pytest.mark.parametrize(("name", "caching"), [("memserve-pd", "3"), ("memserve-pd-basic", "basic")])
def test_our_pairs_differ_in_what_is_cached(commands, name, caching):
    for argv in commands(name).values():
        assert value(argv, "--memserve-caching") == caching


@pytest.mark.parametrize("mode", ["by-layer", "by-request"])
def test_our_pairs_differ_in_how_kv_is_sent(commands, mode):
    for argv in commands(f"memserve-pd-{mode}").values():
        assert value(argv, "--memserve-transfer") == mode


@pytest.mark.parametrize("name", ["stock-pd", "stock-pd-radix"])
def test_the_stock_pairs_router_has_the_policy_that_is_its_default(tmp_path, free_port, name):
    with PortPicker("127.0.0.1", free_port()) as ports:
        builder = Builder(EngineSpec(str(tmp_path), "a"), ports, tmp_path, session=None)
        system = arms.ARMS[name].system(builder, StockPeers(tmp_path))
    assert value(system.router.argv, "--policy") == "cache_aware"


def test_only_the_stock_pair_moves_kv_over_mooncake(commands):
    assert value(commands("stock-pd")["decode"], "--disaggregation-transfer-backend") == "mooncake"
    assert "mooncake" not in commands("memserve-pd")["decode"]


def test_an_arm_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ClusterError, match=r"--arms stokc-pd: .*stock-pd-radix"):
        arms.named("stokc-pd")


@pytest.mark.parametrize("spec", ["http://a:1", "name=", "=http://a:1", "name=a:1"])
def test_a_url_without_name_or_scheme_is_refused(spec):
    with pytest.raises(ClusterError, match=f"--url {spec}: give NAME=URL"):
        arms.running(spec)


@pytest.mark.parametrize("url", ["http://a:1", "http://a:1/", "http://a:1/v1"])
def test_a_url_is_taken_with_or_without_its_api(url):
    assert arms.running(f"mine={url}").url == "http://a:1"


async def test_systems_that_run_already_need_no_builder(tmp_path):
    async with arms.serving([arms.running("a=http://x:1")], None, StockPeers(tmp_path)) as (target,):
        assert (target.name, target.administered) == ("a", ("http://x:1",))


async def test_caches_are_flushed_at_the_instances_of_what_was_started(tmp_path, free_port, monkeypatch):
    @contextlib.asynccontextmanager
    async def nothing(*_):
        yield

    monkeypatch.setattr(Builder, "serving", nothing)
    with PortPicker("127.0.0.1", free_port()) as ports:
        builder = Builder(EngineSpec(str(tmp_path), "a"), ports, tmp_path, session=None)
        async with arms.serving([arms.named("memserve-pd")], builder, StockPeers(tmp_path)) as (target,):
            assert len(target.administered) == 2
            assert target.url not in target.administered
