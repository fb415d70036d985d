"""What the stock systems are started with: the same as ours, but for what makes them stock."""

import itertools
import sys
from dataclasses import replace

import pytest

from sglang_memserve.bench.children import HOST
from sglang_memserve.bench.clusters import Builder, EngineSpec
from sglang_memserve.bench.peers import StockPeers, StockSpec, router_command
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.launch_server import value_of, with_defaults

ENGINE = EngineSpec(model="/models/m", attention_backend="torch_native", threads=3, pool_tokens=4096)


class Ports:
    def __init__(self):
        self._next = itertools.count(20000)

    def pick(self):
        return next(self._next)


@pytest.fixture
def peers(tmp_path):
    folder = tmp_path / ".peers"
    folder.mkdir()
    return StockPeers(folder)


def flags_of(argv):
    """What follows the module, by flag, None where it takes no value; the last one wins, as in SGLang."""
    found = {}
    for i, arg in enumerate(argv):
        if arg.startswith("--"):
            following = argv[i + 1] if i + 1 < len(argv) else "--"
            found[arg] = None if following.startswith("--") else following
    return found


@pytest.mark.parametrize("role", ["prefill", "decode", "colocated"])
def test_a_stock_instance_gets_our_flags_except_transfer_and_cache(peers, role):
    ours = ENGINE.instance(role, Ports())
    stock = StockSpec.like(ours, peers)
    argv = ours.argv()
    expected = flags_of(with_defaults(argv[argv.index("sglang_memserve.launch_server") + 1 :], cuda=False))
    if role != "colocated":
        assert expected["--disaggregation-transfer-backend"] == "memserve"
        expected["--disaggregation-transfer-backend"] = "mooncake"
    assert expected.pop("--radix-cache-backend") == "memserve"
    assert expected.pop("--optimistic-prefill-attempts", None) == ("1" if role == "prefill" else None)
    assert flags_of(stock.argv()[4:]) == expected
    assert "memserve" not in stock.argv()
    assert stock.argv()[:4] == [sys.executable, "-P", "-m", "sglang.launch_server"]


def test_engine_settings_reach_the_stock_instance(peers):
    stock = StockSpec.like(ENGINE.instance("decode", Ports()), peers)
    assert value_of(stock.argv(), "--attention-backend") == "torch_native"
    assert value_of(stock.argv(), "--page-size") == "16"
    assert value_of(stock.argv(), "--max-total-tokens") == "4096"
    assert value_of(stock.argv(), "--model-path") == "/models/m"
    assert "--disaggregation-decode-enable-radix-cache" in stock.argv()
    assert stock.env()["OMP_NUM_THREADS"] == "3"


def test_an_early_start_reaches_the_stock_instance_where_it_is_asked_for(peers):
    stock = StockSpec.like(ENGINE.instance("prefill", Ports(), "--optimistic-prefill-attempts", "1"), peers)
    assert value_of(stock.argv(), "--optimistic-prefill-attempts") == "1"


def test_a_stock_instance_runs_without_our_plugin(peers):
    env = StockSpec.like(ENGINE.instance("prefill", Ports()), peers).env()
    assert env["SGLANG_PLUGINS"].split(",") == ["memserve_cpu", "memserve_stock"]
    assert (env["MC_FORCE_TCP"], env["MOONCAKE_PROTOCOL"]) == ("1", "tcp")


def test_our_attention_brings_the_plugin_that_it_comes_with(peers):
    ours = replace(ENGINE, attention_backend="memserve_cpu").instance("prefill", Ports())
    assert "memserve" in StockSpec.like(ours, peers).env()["SGLANG_PLUGINS"].split(",")


def test_peers_come_first_on_the_path_of_their_processes_only(peers, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert peers.env()["PYTHONPATH"] == f"{peers.folder}:/somewhere"
    assert "PYTHONPATH" not in ENGINE.instance("prefill", Ports()).env()


def test_missing_peers_are_said_with_what_to_do(peers):
    with pytest.raises(ClusterError, match=r"scripts/setup_peers\.sh"):
        peers.require()
    (peers.folder / "memserve.stamp").write_text("x")
    peers.require()


def test_versions_are_read_from_the_folder(peers):
    for name in ("sglang_router-0.3.2.dist-info", "memserve_stock-0.dist-info"):
        (peers.folder / name).mkdir()
    assert peers.versions() == {"sglang-router": "0.3.2"}


def test_sglang_router_gets_the_pairs_as_ours_does(peers):
    ports = Ports()
    pair = [ENGINE.instance("prefill", ports), ENGINE.instance("decode", ports)]
    argv = router_command(HOST, 30000, 30001, pair)
    at = argv.index("--prefill")
    assert argv[at + 1 : at + 3] == [pair[0].url, str(pair[0].bootstrap_port)]
    assert value_of(argv, "--decode") == pair[1].url
    assert value_of(argv, "--policy") == "round_robin"
    assert "--pd-disaggregation" in argv
    colocated = router_command(HOST, 30000, 30001, [ENGINE.instance("colocated", ports)])
    assert "--pd-disaggregation" not in colocated
    assert value_of(colocated, "--worker-urls") == "http://127.0.0.1:20003"


def test_both_pairs_have_ports_and_logs_of_their_own(peers, tmp_path):
    builder = Builder(ENGINE, Ports(), tmp_path, session=None)
    ours, stock = builder.pair("memserve", "--enable-metrics"), builder.stock_pair("mooncake", peers)
    ports = [spec.port for system in (ours, stock) for spec in system.instances]
    assert len({*ports, ours.url, stock.url}) == 6
    assert ours.router.log != stock.router.log
    prefill, decode = ours.instances
    assert "--enable-metrics" in prefill.argv()
    assert "--enable-metrics" not in decode.argv()
    assert "router.launch_router" in ours.router.argv
    assert "sglang_router.launch_router" in stock.router.argv
