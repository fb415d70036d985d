import subprocess
import sys

import pytest

from sglang_memserve.cli import instance, main, up

pytestmark = pytest.mark.usefixtures("sglangs_flags")


def run(*argv):
    return main.main(list(argv))


@pytest.fixture
def executed(monkeypatch):
    """What `memserve instance` would become: (command, environment)."""
    calls = []
    monkeypatch.setattr(instance.os, "execve", lambda path, argv, env: calls.append((argv, env)) or 0)
    return calls


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        run("--version")
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("memserve ")


def test_an_error_is_a_line_and_not_a_traceback(capsys):
    assert run("up", "--prefill", "2") == 2
    assert capsys.readouterr().err.startswith("memserve: --prefill 2 --decode 0")


def test_what_follows_two_dashes_goes_to_sglang(executed):
    run("instance", "--role", "decode", "--port", "31001", "--", "--page-size", "32", "--", "x")
    argv, _ = executed[0]
    assert argv[argv.index("--port") + 1] == "31001"
    assert argv[argv.index("--disaggregation-mode") + 1] == "decode"
    assert argv[-4:] == ["--page-size", "32", "--", "x"]


def test_a_prefill_instance_has_a_bootstrap_port(executed):
    run("instance", "--role", "prefill")
    assert "8998" in executed[0][0]


def test_only_a_prefill_instance_has_one(executed, capsys):
    assert run("instance", "--role", "colocated", "--bootstrap-port", "9000") == 2
    assert "belongs to a prefill instance" in capsys.readouterr().err
    assert not executed


def test_the_router_gets_its_flags_as_they_are(monkeypatch):
    seen = []
    monkeypatch.setattr("router.launch_router.main", lambda flags: seen.append(flags) or 3)
    assert run("router", "--worker-urls", "http://a", "--help") == 3
    assert seen == [["--worker-urls", "http://a", "--help"]]


@pytest.fixture
def config(monkeypatch):
    """The configuration that `memserve up` comes to."""
    made = []

    class Up:
        def __init__(self, config, **_):
            made.append(config)

        async def run(self):
            return 0

    monkeypatch.setattr(up, "_Up", Up)

    def of(*argv):
        assert run("up", *argv) == 0
        return made[-1]

    return of


def test_flag_over_environment_over_default(config, monkeypatch):
    monkeypatch.setenv("MEMSERVE_PORT", "31000")
    monkeypatch.setenv("MEMSERVE_START_TIMEOUT", "5")
    assert (config().port, config().start_timeout, config().host) == (31000, 5.0, "127.0.0.1")
    assert config("--port", "32000").port == 32000


def test_a_bad_environment_is_named(config, monkeypatch, capsys):
    monkeypatch.setenv("MEMSERVE_PORT", "high")
    assert run("up") == 2
    assert "MEMSERVE_PORT='high': expected int" in capsys.readouterr().err


def test_extra_flags_reach_the_instances(config):
    assert config("--", "--enable-fp32-lm-head").args == ("--enable-fp32-lm-head",)


@pytest.mark.parametrize("given", [["--api-key", "K"], ["--api-key=K"]])
def test_an_api_key_for_the_instances_alone_is_refused_at_once(given, capsys):
    assert run("up", "--", *given) == 2
    assert "--api-key after `--`: give it before" in capsys.readouterr().err


def test_an_api_key_comes_from_flag_or_environment_and_is_not_shown(config, monkeypatch):
    assert config("--api-key", "K-flag").api_key == "K-flag"
    monkeypatch.setenv("MEMSERVE_API_KEY", "K-env")
    assert config().api_key == "K-env"
    assert "K-env" not in repr(config())


@pytest.mark.parametrize("key", ["", "two words", "schlüssel"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key, capsys):
    assert run("up", "--api-key", key) == 2
    errors = capsys.readouterr().err
    assert "--api-key: give a key" in errors
    assert not key or key not in errors


@pytest.mark.parametrize("name", ["MEMSERVE_ROUTER_API_KEY", "MEMSERVE_INSTANCE_API_KEY"])
def test_a_key_for_one_part_only_is_refused(name, monkeypatch, capsys):
    monkeypatch.setenv(name, "K")
    assert run("up") == 2
    assert f"{name} is set" in capsys.readouterr().err


def test_the_command_loads_neither_torch_nor_sglang():
    code = "import sys, sglang_memserve.cli.main; sys.exit(bool({'torch', 'sglang'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_registry_runs_until_a_signal():
    command = [sys.executable, "-m", "sglang_memserve.cli.main", "registry", "--bind", "tcp://127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("tcp://127.0.0.1:")
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
