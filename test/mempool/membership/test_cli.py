"""The registry as a command."""

import signal
import subprocess
import sys

import pytest

from mempool.membership.cli import main


def test_help_names_every_setting():
    command = [sys.executable, "-m", "mempool.membership.registry", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    for flag in ("--bind", "--suspicion", "--death", "--max-members"):
        assert flag in shown.stdout
    assert shown.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_endpoint_and_a_signal_ends_it_cleanly(start_registry_process, join, number):
    process, endpoint = start_registry_process("tcp://127.0.0.1:0", "--log-level", "warning")
    assert endpoint.startswith("tcp://127.0.0.1:")
    join("a", endpoint)
    process.send(number)
    out, err = process.popen.communicate(timeout=20)
    assert (process.popen.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--bind", "nowhere"), 2, "registry: cannot listen on nowhere: not an endpoint"),
        (("--bind", "inproc://x"), 2, "registry: cannot listen on inproc://x: give tcp://host:port or ipc"),
        (("--bind", "tcp://127.0.0.1:99999"), 2, "give tcp://host:port"),
        (("--suspicion", "20"), 2, "registry: silence must be suspected before it is death"),
        (("--max-members", "0"), 2, "registry: a registry needs room for one member"),
    ],
)
def test_a_wrong_setting_is_named(capsys, flags, code, said):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(flags) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
