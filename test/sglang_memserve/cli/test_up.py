"""`memserve up` with the real router, in front of a server that stands in for SGLang."""

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import termios
import time
from functools import partial
from pathlib import Path

import pytest
from waiting import eventually

from sglang_memserve.cli import up
from sglang_memserve.cluster import local
from sglang_memserve.cluster.config import ClusterConfig
from sglang_memserve.cluster.ports import is_free
from sglang_memserve.cluster.supervisor import Limits
from sglang_memserve.model import ModelInfo


@pytest.fixture
def started(tmp_path, fake_argv, fake_spec, free_port, forked_router, monkeypatch):
    monkeypatch.setenv("TEST_MARK_OF_MEMSERVE", str(tmp_path))
    monkeypatch.setattr(local, "Limits", partial(Limits, poll_s=0.05))

    async def model(name, timeout_s):
        return ModelInfo("tiny", 8192, 2)

    def start(*flags, config=None, **options):
        port = free_port()
        spec = fake_spec("colocated", 0, port, command=tuple(fake_argv(port, *flags)))
        monkeypatch.setattr(up, "read_model", model)
        monkeypatch.setattr(up, "plan_instances", lambda config, info, ports, key: [spec])
        config = config or ClusterConfig(
            colocated=1, port=free_port(), log_dir=tmp_path / "logs", start_timeout=30
        )
        run = up._Up(config, chat=False, leave=options.get("leave", False))
        return asyncio.create_task(run.run()), config

    return start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_stops_everything(started, survivors, capsys, number):
    running, config = started()
    said = ""

    def serving():
        nonlocal said
        said += capsys.readouterr().out
        return "Ctrl-C stops" in said

    await eventually(serving)
    os.kill(os.getpid(), number)
    assert await running == 0
    said = capsys.readouterr().out
    assert said.index("router      stopped") < said.index("colocated-0 stopped")
    assert survivors() == []
    assert is_free(config.host, config.port)


async def test_a_second_signal_does_not_wait(started, survivors, capsys):
    running, _ = started("--ignore-term")
    await eventually(lambda: "serving on" in capsys.readouterr().out)
    os.kill(os.getpid(), signal.SIGINT)
    await eventually(lambda: "router      stopped" in capsys.readouterr().out)
    assert not running.done()
    os.kill(os.getpid(), signal.SIGINT)
    # well within the grace that SGLang gets to stop by itself
    assert (await asyncio.wait({running}, timeout=10))[0] == {running}
    assert survivors() == []


async def test_a_signal_while_it_starts(started, survivors, capsys):
    running, _ = started()
    await eventually(lambda: "starting" in capsys.readouterr().out)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert survivors() == []


async def test_a_failed_start_says_why_and_leaves_nothing(started, survivors, capsys):
    running, _ = started("--crash")
    assert await running == 1
    assert "colocated-0 ended while it started: exit code 1" in (err := capsys.readouterr().err)
    assert "the weights are gone" in err
    assert survivors() == []


async def test_exit_leaves_after_the_start(started, survivors):
    running, _ = started(leave=True)
    assert await running == 0
    assert survivors() == []


async def test_a_second_one_on_the_port_is_refused_and_the_first_keeps_its_logs(started, survivors, capsys):
    running, config = started()
    await eventually(lambda: "serving on" in capsys.readouterr().out)
    second, _ = started(config=config)
    assert await second == 1
    assert f"another `memserve up` uses port {config.port}" in capsys.readouterr().err
    assert sorted(path.name for path in config.logs.iterdir()) == ["colocated-0.log", "router.log"]
    # not by a signal: in this one process those are the second's by now
    running.cancel()
    assert await running == 0
    assert survivors() == []
    third, _ = started(config=config, leave=True)
    assert await third == 0


async def test_a_signal_that_nohup_ignores_stays_ignored(started, capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running, _ = started()
        await eventually(lambda: "serving on" in capsys.readouterr().out)
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("model", "sizes", "asked"),
    [(None, True, 1), (None, False, 1), ("org/model", True, 1), ("org/model", False, 0)],
)
async def test_the_model_is_asked_for_only_if_need_be(monkeypatch, model, sizes, asked):
    calls = []

    async def read(name, timeout_s):
        calls.append(name)

    monkeypatch.setattr(up, "read_model", read)
    monkeypatch.setattr(up, "sizes_pool", lambda config: sizes)
    await up._Up(ClusterConfig(model=model), chat=False, leave=False)._model()
    assert calls == [model] * asked


def own_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def in_a_process(tmp_path, free_port, forked_python, forked_router):
    """`memserve up` in a process of its own, serving; and the descriptor at which its output is read."""
    processes = []

    def start(**streams):
        ports = [str(free_port()) for _ in range(2)]
        env = {**os.environ, "TEST_MARK_OF_MEMSERVE": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        script = Path(__file__).with_name("run_up.py")
        command = [*forked_python(), str(script), *ports, str(tmp_path / "logs"), json.dumps(forked_router)]
        with (tmp_path / "err").open("wb") as err:
            processes.append(subprocess.Popen(command, stderr=err, env=env, **streams))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait(30)


def read_until_served(fd):
    said = b""
    while b"Ctrl-C stops" not in said:
        more = os.read(fd, 65536)
        assert more, said
        said += more


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_when_the_pipe_is_closed(in_a_process, survivors, tmp_path, number):
    process = in_a_process(stdout=subprocess.PIPE)
    read_until_served(process.stdout.fileno())
    process.stdout.close()
    process.send_signal(number)
    assert process.wait(60) == 0
    assert survivors() == []
    assert (tmp_path / "err").read_text() == ""


def test_everything_stops_when_the_terminal_is_closed(in_a_process, survivors, tmp_path):
    ours, theirs = pty.openpty()
    process = in_a_process(stdin=theirs, stdout=theirs, start_new_session=True, preexec_fn=own_terminal)
    os.close(theirs)
    read_until_served(ours)
    os.close(ours)
    assert process.wait(60) == 0
    assert survivors() == []
    assert (tmp_path / "err").read_text() == ""


def test_a_closed_pipe_does_not_end_the_cluster(in_a_process, survivors, tmp_path):
    process = in_a_process(stdout=subprocess.PIPE)
    read_until_served(process.stdout.fileno())
    process.stdout.close()
    log = tmp_path / "logs" / "colocated-0.log"
    first = child_in(log)
    os.kill(os.getsid(first), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while child_in(log) in (None, first):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert survivors() == []


def child_in(log):
    """The pid that the fake server has logged, or None as long as its line is not whole."""
    line = re.search(r"^child (\d+)\n", log.read_text() if log.exists() else "", re.MULTILINE)
    return line and int(line[1])
