"""A YAML file below the environment below the flags, and names that nothing has."""

import subprocess
import sys

import pytest

from router.config.flags import parse
from router.config.settings import ConfigError, PrefillUrl, RouterConfig
from router.launch_router import main

WORKER = ["--worker-urls", "http://a:1"]


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "router.yaml"
        path.write_text(text)
        return ["--config", str(path)]

    return write


def test_flag_over_environment_over_file_over_default(file):
    argv = [*WORKER, *file("port: 1\nlog_level: debug\npolicy: random\n")]
    environ = {"MEMSERVE_ROUTER_PORT": "2", "MEMSERVE_ROUTER_POLICY": "session"}
    config = parse([*argv, "--port", "3"], environ)
    assert (config.port, config.policy, config.log_level, config.host) == (3, "session", "debug", "127.0.0.1")
    assert parse(argv, environ).port == 2
    assert parse(argv, {}).port == 1


def test_instances_from_a_file(file):
    text = "prefill: [http://p:1 8998, {url: http://p:2, bootstrap_port: 9}, http://p:3/]\ndecode: [http://d:1]\n"
    config = parse(file(text), {})
    assert config.prefill == (
        PrefillUrl("http://p:1", 8998),
        PrefillUrl("http://p:2", 9),
        PrefillUrl("http://p:3"),
    )
    assert config.decode == ("http://d:1",)


def test_instances_from_the_environment():
    environ = {
        "MEMSERVE_ROUTER_PREFILL": "http://p:1 8998, http://p:2",
        "MEMSERVE_ROUTER_DECODE": "http://d:1/,http://d:2",
    }
    config = parse([], environ)
    assert config.prefill == (PrefillUrl("http://p:1", 8998), PrefillUrl("http://p:2"))
    assert config.decode == ("http://d:1", "http://d:2")


def test_an_empty_file_sets_nothing(file):
    assert parse([*WORKER, *file("# nothing\n")], {}) == RouterConfig(colocated=("http://a:1",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot: 1", "prot: there is no such setting: did you mean port?"),
        ("ignored_flags: [x]", "ignored_flags: there is no such setting"),
        ("port: many", "port: 'many': expected int"),
        ("port: 70000", "port: 70000: a port is a number from 1 to 65535"),
        ("disable_retries: maybe", "disable_retries: 'maybe': expected true or false"),
        ("policy: cost_modle", "policy 'cost_modle' is unknown"),
        ("connect_timeout_secs: 0", "connect_timeout_secs: 0: must be a number greater than 0"),
        ("decode: 5", "decode: 5: expected a list"),
        ("- port", "expected settings by name"),
        ("port: [", "is no YAML"),
    ],
)
def test_an_error_in_a_file_names_file_setting_and_value(file, text, words):
    argv = file(text)
    with pytest.raises(ConfigError) as error:
        parse([*WORKER, *argv], {})
    assert argv[1] in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"/not/there.yaml: No such file"):
        parse([*WORKER, "-f", "/not/there.yaml"], {})


def test_an_unknown_variable_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"MEMSERVE_ROUTER_PRT is set.*did you mean MEMSERVE_ROUTER_PORT\?"):
        parse(WORKER, {"MEMSERVE_ROUTER_PRT": "1"})
    with pytest.raises(ConfigError, match=r"MEMSERVE_ROUTER_XYZ is set.*unset it"):
        parse(WORKER, {"MEMSERVE_ROUTER_XYZ": "1"})


def test_variables_that_kubernetes_sets_for_a_service_are_no_settings():
    names = ("SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT_30000_TCP", "PORT_30000_TCP_ADDR")
    assert parse(WORKER, {f"MEMSERVE_ROUTER_{name}": "x" for name in names}) == parse(WORKER, {})


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--prot", "1"], "--prot is no flag here: did you mean --port?"),
        (["--retry-max-retr", "1"], "--retry-max-retr is no flag here: did you mean --retry-max-retries?"),
        (["--zzz"], "--zzz is no flag here: see python -m router.launch_router --help"),
        (["stray"], "stray: there is nothing that takes this"),
    ],
)
def test_an_unknown_flag_is_one_line_with_a_hint(argv, words, capsys):
    with pytest.raises(SystemExit) as done:
        main([*argv, *WORKER])
    assert done.value.code == 2
    assert capsys.readouterr().err == f"python -m router.launch_router: {words}\n"


def test_reading_the_settings_loads_no_engine():
    code = (
        "import sys; from router.config.flags import parse; parse([], {});"
        "sys.exit(bool({'torch', 'sglang', 'sglang_memserve', 'transformers'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
