"""The processes of a benchmark: started together, waited for, and gone when it ends."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import exit_status
from sglang_memserve.cluster.supervisor import Limits, Member, Supervisor

HOST = "127.0.0.1"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.asynccontextmanager
async def running(members: Sequence[Member], start_s: float = 300.0) -> AsyncIterator[None]:
    """All of `members` serve within the block. Raises ClusterError if one does not within `start_s` seconds.

    Leaving the block stops them; no process is left.
    """
    supervisor = Supervisor(
        members, _say, limits=Limits(start_s=start_s, poll_s=0.2), serves=lambda: False, settle=_never
    )
    try:
        await supervisor.start()
        yield
    finally:
        await supervisor.stop()


def answering(
    name: str,
    argv: Sequence[str],
    url: str,
    logs: Path,
    session: aiohttp.ClientSession,
    env: Mapping[str, str] | None = None,
    path: str = "/health",
) -> Member:
    """A process that serves when GET `path` of it gives 200."""

    async def phase() -> str:
        return "ready" if await probe.answers(session, url + path) else "starting"

    return Member(name, argv, {"PYTHONUNBUFFERED": "1", **(env or {})}, logs / f"{name}.log", phase)


def run(benchmark: Coroutine[Any, Any, None]) -> int:
    """Runs it to its end, Ctrl-C or SIGTERM; its processes are stopped either way. Returns the exit code."""
    try:
        asyncio.run(_until_signalled(benchmark))
    except KeyboardInterrupt:
        return 130
    except asyncio.CancelledError:
        return 143
    except (RuntimeError, ExceptionGroup) as error:
        leaves = _leaves(error)
        for leaf in leaves:
            print(f"error: {leaf}", file=sys.stderr)
        return max(map(exit_status, leaves))
    return 0


async def _until_signalled(benchmark: Coroutine[Any, Any, None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in _STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await benchmark


def _leaves(error: Exception) -> list[Exception]:
    """The errors of a group. Raises what is no RuntimeError: that is a fault of the benchmark."""
    if isinstance(error, ExceptionGroup):
        return [leaf for member in error.exceptions for leaf in _leaves(member)]
    if not isinstance(error, RuntimeError):
        raise error
    return [error]


def _say(name: str, text: str) -> None:
    print(f"{name}: {text}", file=sys.stderr, flush=True)


async def _never(_: Member) -> str:
    raise AssertionError("a benchmark restarts nothing")
