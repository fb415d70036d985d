"""Where the settings of `memserve up` come from, and which wins."""

import textwrap
from pathlib import Path

import pytest

from sglang_memserve.cli import main, up_config
from sglang_memserve.cluster.plan import plan_instances
from sglang_memserve.cluster.ports import PortPicker
from sglang_memserve.model import ModelInfo

FILE = """\
model: org/model
port: 31000
log_dir: /tmp/logs
prefill: {count: 2, args: [--page-size, 32]}
decode: {count: 1, args: "--max-running-requests 64"}
args: [--context-length, 8192]
router: {policy: session, log_level: debug}
"""


@pytest.fixture
def read(tmp_path):
    """The configuration of a command line, an environment and a cluster file."""
    file = tmp_path / "cluster.yaml"
    file.write_text(FILE)

    def read(*argv, environ=(), passed_on=()):
        args = main.make_parser().parse_args(["up", "-f", str(file), *argv])
        return up_config.read(args, list(passed_on), dict(environ))

    return read


def test_a_cluster_file_has_every_setting(read):
    config = read()
    assert (config.model, config.port, config.log_dir) == ("org/model", 31000, Path("/tmp/logs"))
    assert (config.prefill.count, config.decode.count, config.colocated.count) == (2, 1, 0)
    assert config.args_of("prefill") == ("--context-length", "8192", "--page-size", "32")
    assert config.args_of("decode") == ("--context-length", "8192", "--max-running-requests", "64")
    assert config.router == {"policy": "session", "log_level": "debug"}


def test_flag_over_environment_over_file(read):
    environ = {"MEMSERVE_PORT": "32000", "MEMSERVE_HOST": "0.0.0.0"}
    config = read("--port", "33000", environ=environ)
    assert (config.port, config.host, config.model) == (33000, "0.0.0.0", "org/model")
    assert read(environ=environ).port == 32000


@pytest.mark.parametrize(("argv", "environ"), [(["--prefill", "3"], {}), ([], {"MEMSERVE_PREFILL": "3"})])
def test_a_count_keeps_the_flags_that_the_file_has_for_the_role(read, argv, environ):
    config = read(*argv, environ=environ)
    assert config.prefill.count == 3
    assert config.prefill.args == ("--page-size", "32")


def test_flags_after_two_dashes_come_after_those_of_the_file(read):
    assert read(passed_on=["--context-length", "4096"]).args[-2:] == ("--context-length", "4096")


def test_an_empty_variable_sets_nothing(read):
    assert read(environ={"MEMSERVE_MODEL": "", "MEMSERVE_PORT": ""}).port == 31000


def test_each_role_gets_its_own_flags(read, free_port):
    config = read("--port", str(free_port()), "--threads", "1", "--max-total-tokens", "64")
    with PortPicker("127.0.0.1", config.port + 1) as ports:
        specs = plan_instances(config, ModelInfo("tiny", 8192, 2), ports)
    assert [spec.name for spec in specs] == ["prefill-0", "prefill-1", "decode-0"]
    flags = ("--enable-metrics", "--context-length", "8192")
    assert specs[0].extra == (*flags, "--page-size", "32")
    assert specs[2].extra == (*flags, "--max-running-requests", "64")


def test_the_example_in_the_help_is_a_cluster_file(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(textwrap.dedent(up_config.EXAMPLE.split("\n", 1)[1]))
    args = main.make_parser().parse_args(["up", "--config", str(file)])
    config = up_config.read(args, [], {})
    assert (config.prefill.count, config.decode.count, config.router["policy"]) == (2, 1, "cost_model")
