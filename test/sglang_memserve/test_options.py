"""MemServe's own flags, out of SGLang's command line."""

import pytest

from mempool.encryption import Encryption
from mempool.flags import TransferMode
from mempool.security.cluster_key import ClusterKey
from sglang_memserve.options import InstanceOptions, OptionError, check_variables, help_text, take


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("MEMSERVE_CACHING", "MEMSERVE_DRAM", "MEMSERVE_TRANSFER", "MEMSERVE_MAX_BANDWIDTH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "given",
    [
        ["--memserve-caching", "2", "--memserve-dram=1GiB"],
        ["--memserve-caching=2", "--memserve-dram", "1GiB"],
    ],
)
def test_our_flags_are_taken_and_sglangs_left(given):
    options, rest = take(["--port", "1", *given, "--tp-size=2"])
    assert options == InstanceOptions(caching="2", dram="1GiB")
    assert rest == ["--port", "1", "--tp-size=2"]


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch):
    assert take([])[0].caching == "3"
    monkeypatch.setenv("MEMSERVE_CACHING", "1")
    assert take([])[0].caching == "1"
    assert take(["--memserve-caching", "basic"])[0].caching == "basic"


def test_spawned_processes_find_what_was_asked_for(monkeypatch):
    environ = {}
    InstanceOptions(caching="1", dram="2GiB").publish(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert InstanceOptions.from_environment() == InstanceOptions(caching="1", dram="2GiB")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--memserve-caching", "4"], "--memserve-caching 4: choose from basic, 1, 2, 3"),
        (["--memserve-transfer", "layers"], "--memserve-transfer layers: choose from aggregated, by-layer"),
        (["--memserve-encrypt", "yes"], "--memserve-encrypt yes: choose from auto, on, off"),
        (
            ["--memserve-fabrics", "shm"],
            "--memserve-fabrics shm: name shm or stream, each once, and stream",
        ),
        (["--memserve-fabrics", "stream,shm"], "stream last"),
        (["--memserve-fabrics", "shm,shm,stream"], "each once"),
        (["--memserve-fabrics", "rdma,stream"], "name shm or stream"),
        (["--memserve-fabrics", ","], "name shm or stream"),
        (["--memserve-max-bandwidth", "10%"], "--memserve-max-bandwidth: '10%' is not a size"),
        (["--memserve-max-bandwidth", "1000"], "--memserve-max-bandwidth 1000: give at least 1MiB, or 0"),
        (["--memserve-caching"], "--memserve-caching needs a value"),
        (["--memserve-caching", "--port"], "--memserve-caching needs a value"),
        (["--memserve-cachnig", "3"], "--memserve-cachnig: there is no such flag"),
    ],
)
def test_bad_values_are_refused_by_the_flags_name(argv, says):
    with pytest.raises(OptionError, match=says):
        take(argv)


def test_the_mode_for_benchmarks_is_offered_to_nobody():
    with pytest.raises(OptionError) as refused:
        take(["--memserve-transfer", "by-requests"])
    assert str(refused.value).endswith("choose from aggregated, by-layer")
    assert "by-request" not in help_text()


@pytest.mark.parametrize("mode", TransferMode)
def test_the_mode_for_benchmarks_is_named_as_what_it_is(mode):
    caveat = take(["--memserve-transfer", mode.value])[0].caveat
    assert ("by-request is for measurements only" in caveat) == (mode is TransferMode.BY_REQUEST)


def test_whether_kv_is_encrypted_reaches_the_instances_processes(monkeypatch):
    environ = {}
    assert take([])[0].encrypt is Encryption.AUTO
    take(["--memserve-encrypt", "on"])[0].publish(environ)
    monkeypatch.setenv("MEMSERVE_ENCRYPT", environ["MEMSERVE_ENCRYPT"])
    assert InstanceOptions.from_environment().encrypt is Encryption.ON


@pytest.mark.parametrize("mode", TransferMode)
def test_every_transfer_mode_of_the_mempool_can_be_chosen(mode):
    assert take(["--memserve-transfer", mode.value])[0].transfer is mode


def test_the_size_of_dram_is_as_given_or_fits_the_host():
    assert take(["--memserve-dram", "0"])[0].dram_for("cuda") == "0"
    assert take([])[0].dram_for("cuda") == "2%"
    assert take([])[0].dram_for("cpu") == "256MiB"


def test_the_bandwidth_is_a_size_in_bytes_or_no_bound():
    assert take([])[0].max_bytes_per_second == 0
    assert take(["--memserve-max-bandwidth", "100MiB"])[0].max_bytes_per_second == 100 << 20


def test_a_variable_that_is_almost_an_options_is_refused():
    with pytest.raises(OptionError, match=r"MEMSERVE_CACHNG is set.*did you mean MEMSERVE_CACHING\?"):
        check_variables({"MEMSERVE_CACHNG": "3"})
    check_variables({"MEMSERVE_CACHING": "3", "MEMSERVE_PORT": "1", "MEMSERVE_ROUTER_PORT": "1"})


@pytest.mark.parametrize("name", ["feed", "control", "block", "transfer", "rank"])
def test_a_port_can_be_pinned_and_reaches_the_instances_processes(name, monkeypatch):
    options, rest = take([f"--memserve-{name}-port", "7000", "--page-size", "1"])
    environ = {}
    options.publish(environ)
    assert environ[f"MEMSERVE_{name.upper()}_PORT"] == "7000"
    assert rest == ["--page-size", "1"]
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    assert getattr(InstanceOptions.from_environment(), f"{name}_port") == 7000
    assert getattr(take([])[0], f"{name}_port") == 7000


def test_ports_are_free_ones_unless_pinned():
    options = take([])[0]
    ports = [value for name, value in vars(options).items() if name.endswith("_port")]
    assert ports == [0] * 5


@pytest.mark.parametrize("port", ["many", "-1", "65536"])
def test_a_wrong_port_is_named(port):
    with pytest.raises(OptionError, match=f"--memserve-feed-port {port}: give a port"):
        take(["--memserve-feed-port", port])


def test_two_pinned_ports_must_differ():
    with pytest.raises(OptionError, match="not all different"):
        take(["--memserve-feed-port", "7000", "--memserve-block-port", "7000"])


def test_an_instance_takes_the_clusters_key_by_flag_and_environment(monkeypatch, tmp_path):
    path = tmp_path / "cluster.key"
    path.write_text("k" * 40)
    path.chmod(0o600)
    assert take([])[0].access().key is None
    monkeypatch.setenv("MEMSERVE_CLUSTER_KEY", "x" * 40)
    assert take([])[0].access("me").key == ClusterKey("x" * 40)
    assert take(["--memserve-cluster-key-file", str(path)])[0].access("me").key == ClusterKey("k" * 40)
    assert take([])[0].access("me").name == "me"
    check_variables({"MEMSERVE_CLUSTER_KEY": "x"})
    with pytest.raises(OptionError, match="--memserve-insecure perhaps: give 1, or 0"):
        take(["--memserve-insecure", "perhaps"])
    assert take(["--memserve-insecure", "1"])[0].access().insecure
    assert not take([])[0].access().insecure


def test_the_environment_of_spawned_processes_keeps_the_key_and_the_switch(monkeypatch):
    environ = {}
    InstanceOptions(cluster_key_file="/nowhere", insecure=True).publish(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert InstanceOptions.from_environment() == InstanceOptions(cluster_key_file="/nowhere", insecure=True)


@pytest.mark.parametrize(
    ("argv", "urls"),
    [
        ([], ("shm://",)),
        (["--memserve-fabrics", "shm, stream"], ("shm://",)),
        (["--memserve-fabrics", "stream"], ()),
        # The kernel paces TCP, and nobody shared memory.
        (["--memserve-max-bandwidth", "1GiB"], ()),
    ],
)
def test_kv_goes_through_shared_memory_where_nothing_else_is_asked_for(argv, urls):
    options, _ = take(argv)
    assert (options.fabric_urls, options.uses_shm) == (urls, bool(urls))
