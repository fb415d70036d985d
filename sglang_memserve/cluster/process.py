"""A server process with everything it starts, in a session of its own."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from sglang_memserve.cluster import child

_POLL_S = 0.05


class ServerProcess:
    """One run of a command, with its output in a log file. Signals at our terminal do not reach it.

    Call from the main thread: the kernel ties the process's life to the thread that started it.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._argv = list(argv)
        self._env = {**os.environ, **env}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it with a new log; the log of the last run is kept beside it. Raises OSError."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".previous.log"))
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *child.wrapped(self._argv),
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs or before it was started; minus the signal if one ended it."""
        return self._process.returncode if self._process else None

    async def wait(self) -> int:
        """The exit code, once the main process has ended."""
        assert self._process is not None, "not started"
        return await self._process.wait()

    async def stop(self, grace_s: float) -> bool:
        """Sends SIGTERM, and kills it after `grace_s` seconds. True if it ended by itself.

        When this returns, none of its processes is left.
        """
        if self._process is None:
            return True
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            return False
        else:
            return True
        finally:
            await self.clean()

    async def clean(self) -> None:
        """Kills the rest of its session and waits until it is gone, so that its ports are free."""
        while self.kill():
            await asyncio.sleep(_POLL_S)

    def kill(self) -> int:
        """SIGKILL to every process of its session, at once. Returns how many there were."""
        if self.pid is None:
            return 0
        left = session_members(self.pid)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(left)


def session_members(session: int) -> list[psutil.Process]:
    """The living processes of a session, whoever their parent is by now."""
    return [process for process in psutil.process_iter() if _lives_in(session, process)]


def _lives_in(session: int, process: psutil.Process) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'}"
