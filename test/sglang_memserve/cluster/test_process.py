import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sglang_memserve.cluster.ports import is_free
from sglang_memserve.cluster.process import ServerProcess, describe_exit


@pytest.fixture
def run_fake(tmp_path, fake_argv, free_port):
    """A running fake server with its child: (process, port, log)."""

    async def run(*flags, port=None):
        port = port or free_port()
        log = tmp_path / "logs" / "fake.log"
        process = ServerProcess(fake_argv(port, *flags), {"TEST_MARK_OF_MEMSERVE": str(tmp_path)}, log)
        await process.start()
        while is_free("127.0.0.1", port):
            assert process.exit_code is None, log.read_text()
            await asyncio.sleep(0.02)
        return process, port, log

    return run


async def test_stop_takes_the_children_along(run_fake, survivors):
    process, port, _ = await run_fake()
    assert len(survivors()) == 2
    assert await process.stop(grace_s=10)
    assert process.exit_code == -signal.SIGTERM
    assert survivors() == []
    assert is_free("127.0.0.1", port)


async def test_what_ignores_sigterm_is_killed_after_the_grace(run_fake, survivors):
    process, _, _ = await run_fake("--ignore-term")
    assert not await process.stop(grace_s=0.3)
    assert process.exit_code == -signal.SIGKILL
    assert survivors() == []


async def test_children_of_a_killed_process_are_killed_and_its_port_is_free(run_fake, survivors):
    process, port, _ = await run_fake()
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    assert len(survivors()) == 1
    await process.clean()
    assert survivors() == []
    again, _, _ = await run_fake(port=port)
    await again.stop(grace_s=10)


async def test_kill_ends_all_at_once(run_fake, survivors):
    process, _, _ = await run_fake("--ignore-term")
    assert process.kill() == 2
    await process.wait()
    await process.clean()
    assert survivors() == []


async def test_a_signal_at_our_terminal_does_not_reach_it(run_fake):
    process, _, _ = await run_fake()
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    await process.stop(grace_s=10)


async def test_a_second_run_has_a_log_of_its_own_and_the_first_ones_is_kept(run_fake):
    process, _, log = await run_fake()
    await process.stop(grace_s=10)
    first = log.read_text()
    await process.start()
    await process.stop(grace_s=10)
    assert first not in log.read_text()
    assert log.with_suffix(".previous.log").read_text() == first


def test_a_server_dies_with_a_parent_that_was_killed(tmp_path, survivors):
    """The parent cannot clean up after SIGKILL: the kernel must."""
    sleeper = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    code = f"""
import asyncio
from pathlib import Path
from sglang_memserve.cluster.process import ServerProcess

async def main():
    process = ServerProcess({sleeper!r}, {{}}, Path({str(tmp_path / "log")!r}))
    await process.start()
    print(process.pid, flush=True)
    await process.wait()

asyncio.run(main())
"""
    env = {**os.environ, "TEST_MARK_OF_MEMSERVE": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    server = psutil.Process(int(parent.stdout.readline()))
    # Once it has become the command: before that it looks for its parent by itself.
    while server.cmdline() != sleeper:
        time.sleep(0.01)
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    assert not psutil.wait_procs([server], timeout=10)[1]
    assert survivors() == []


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (1, "exit code 1"), (-9, "SIGKILL"), (-15, "SIGTERM"), (-99, "signal 99")],
)
def test_exit_codes_are_put_in_words(code, words):
    assert words in describe_exit(code)
