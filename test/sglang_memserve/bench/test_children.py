"""However a benchmark ends, its processes end with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run_children.py")


@pytest.fixture
def start(tmp_path, free_port):
    """Starts the script and returns it once its worker serves."""
    env = os.environ | {"TEST_MARK_OF_MEMSERVE": str(tmp_path)}

    def launch(*how):
        command = [sys.executable, str(SCRIPT), str(free_port()), str(tmp_path), *how]
        script = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert script.stdout.readline() == "running\n"
        return script

    return launch


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_process(start, survivors, number, code):
    script = start()
    assert len(survivors()) == 2
    script.send_signal(number)
    _, said = script.communicate(timeout=30)
    assert script.returncode == code, said
    assert "Traceback" not in said
    assert "worker: stopped" in said
    assert not survivors()


def test_a_failure_is_said_in_a_line_and_leaves_no_process(start, survivors):
    script = start("fail")
    _, said = script.communicate(timeout=30)
    assert script.returncode == 1
    assert "error: answered 500" in said.splitlines()
    assert not survivors()
