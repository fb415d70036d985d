"""Steps with real processes: what becomes of them, and that nothing of them is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import until

from benchmark.gpu.execution import execute
from benchmark.gpu.plan import GpuStep

ROOT = Path(__file__).parents[3]
EXECUTE = """
import sys
from pathlib import Path
from benchmark.gpu.execution import execute
from benchmark.gpu.plan import GpuStep
step = GpuStep("hangs", "does not end", tuple(sys.argv[2:]), 600.0)
print(execute(step, Path(sys.argv[1]), print, grace_s=0.2).status, flush=True)
sys.stdin.read()
"""


def are_gone(pids):
    return not any(is_alive(pid) for pid in pids)


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def said():
    """What was printed on the way."""
    return []


@pytest.fixture
def run(tmp_path, said):
    def call(step, **more):
        return execute(step, tmp_path / "logs" / "1.log", said.append, grace_s=0.2, **more)

    return call


def test_a_step_that_passes_has_its_figures_and_its_bars_in_a_line(run, step, tmp_path):
    figures = '{"results": {}, "bars": [{"ok": true}, {"ok": false}]}'
    found = run(
        step(f"import sys; print('{figures}', flush=True); print('later', file=sys.stderr)", measures=True)
    )
    assert (found.status, found.exit_code, found.summary) == ("passed", 0, "1 of 2 bars met")
    assert found.figures["bars"] == [{"ok": True}, {"ok": False}]
    assert found.log == "logs/1.log"
    assert "later" in (tmp_path / found.log).read_text()


def test_a_step_that_fails_says_how_and_keeps_what_it_printed(run, step):
    found = run(step("import sys; print('so far'); sys.exit('no such model')"))
    assert (found.status, found.exit_code, found.figures) == ("failed", 1, None)
    assert found.summary in ("no such model", "so far")


def test_what_pytest_has_counted_is_the_summary(run, step):
    line = "=== 3 passed, 1 failed in 12.34s (0:00:12) ==="
    found = run(step(f"print('{line}'); print('left over')"))
    assert found.summary == "3 passed, 1 failed in 12.34s (0:00:12)"


def test_a_command_that_is_not_there_is_a_failure(run):
    found = run(GpuStep("absent", "is not there", ("no-such-command",), 60.0))
    assert (found.status, found.exit_code) == ("failed", 127)
    assert "no-such-command" in found.summary


def test_a_step_that_hangs_is_ended_with_all_that_it_started(run, said, hanging):
    make, started = hanging
    found = run(make(limit_s=5.0), progress_s=0.5)
    assert (found.status, found.exit_code) == ("timed out", 124)
    assert started(), "it has had five seconds"
    assert are_gone(started())
    assert any("hangs" in line for line in said)


def test_what_a_step_leaves_behind_is_ended_too(run, tmp_path):
    pid = tmp_path / "pid"
    code = f"setsid sleep 1000 & echo $! >{pid}"
    found = run(GpuStep("forgets", "leaves one", ("bash", "-c", code), 60.0))
    assert found.status == "passed"
    assert are_gone([int(pid.read_text())])
    assert "were left: 1" in found.summary


@pytest.fixture
def runner(hanging, tmp_path):
    """A process that executes a step that hangs; it stays when the step has ended, until it is killed."""
    make, started = hanging
    command = [sys.executable, "-c", EXECUTE, str(tmp_path / "log"), *make(limit_s=600.0).argv]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, text=True, stdin=pipe, stdout=pipe) as process:
        try:
            until(started)
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_the_step_with_all_that_it_started(runner, hanging):
    _, started = hanging
    runner.send_signal(signal.SIGINT)
    assert runner.stdout.readline() == "interrupted\n"
    assert are_gone(started())


def test_nothing_of_a_step_outlives_the_run(runner, hanging):
    _, started = hanging
    runner.kill()
    until(lambda: are_gone(started()))
