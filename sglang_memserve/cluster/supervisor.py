"""Starts the processes of a cluster, brings back those that die, and stops them all."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.logs import last_errors
from sglang_memserve.cluster.process import ServerProcess, describe_exit

Report = Callable[[str, str], None]
"""Takes a member's name and its new state, in words."""


@dataclass
class Member:
    """A process of the cluster. `phase` returns how far its start has come: "ready" when it serves."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    phase: Callable[[], Awaitable[str]]
    first_to_stop: bool = False
    process: ServerProcess = field(init=False)
    lost: bool = field(default=False, init=False)
    _restarts: deque[float] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        self.process = ServerProcess(self.argv, self.env, self.log)

    def give_up(self) -> None:
        self.lost = True

    def restart_delay(self, limits: "Limits") -> float | None:
        """Seconds to wait before the next restart, or None if there were too many of late."""
        now = time.monotonic()
        while self._restarts and now - self._restarts[0] > limits.window_s:
            self._restarts.popleft()
        if len(self._restarts) >= limits.restarts:
            return None
        self._restarts.append(now)
        return float(limits.backoff_s * 2 ** (len(self._restarts) - 1))


@dataclass(frozen=True)
class Limits:
    """`restarts` of one member within `window_s` seconds, the wait before each doubling from `backoff_s`."""

    start_s: float = 600.0
    stop_s: float = 20.0
    poll_s: float = 0.5
    restarts: int = 3
    window_s: float = 300.0
    backoff_s: float = 1.0


class Supervisor:
    """Owns the processes of `members`.

    `serves`: whether the members that are not lost can still answer requests. `settle` runs after a restart
    and returns what to report.
    """

    def __init__(
        self,
        members: Sequence[Member],
        report: Report,
        *,
        limits: Limits,
        serves: Callable[[], bool],
        settle: Callable[[Member], Awaitable[str]],
    ) -> None:
        self._members = list(members)
        self._report = report
        self._limits = limits
        self._serves = serves
        self._settle = settle

    async def start(self, prove: Callable[[], Awaitable[None]] | None = None) -> None:
        """Starts all at once. Returns when each is ready and `prove` has returned.

        Raises ClusterError for the first that is not ready in time or dies before this ends, and what `prove`
        raises.
        """
        try:
            async with asyncio.TaskGroup() as group:
                deaths: list[asyncio.Task[None]] = []

                async def launch(member: Member) -> None:
                    await self._first_launch(member)
                    deaths.append(group.create_task(self._early_death(member)))

                await _all(launch(member) for member in self._members)
                if prove:
                    await self._proven(prove)
                for death in deaths:
                    death.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def watch(self) -> None:
        """Restarts what dies. Never returns; raises ClusterError when the rest cannot serve."""
        await _all(self._keep(member) for member in self._members)
        raise ClusterError("every process of the cluster is gone")

    async def stop(self) -> None:
        """Stops all, those marked first_to_stop before the rest. No process is left."""
        failures: list[BaseException] = []
        for first in (True, False):
            members = [member for member in self._members if member.first_to_stop == first]
            done = await asyncio.gather(*map(self._stop, members), return_exceptions=True)
            failures += [result for result in done if result is not None]
        if failures:
            raise failures[0]

    def kill(self) -> None:
        """Kills all at once."""
        for member in self._members:
            member.process.kill()

    async def _stop(self, member: Member) -> None:
        if member.process.pid is None or member.lost:
            return
        stopped = await member.process.stop(self._limits.stop_s)
        self._report(
            member.name, "stopped" if stopped else f"killed: still there after {self._limits.stop_s:.0f} s"
        )

    async def _first_launch(self, member: Member) -> None:
        try:
            await self._launch(member)
        except ClusterError as error:
            raise ClusterError(f"{member.name} {error}") from None

    async def _early_death(self, member: Member) -> None:
        code = await member.process.wait()
        await member.process.clean()
        what = f"died before all was ready: {describe_exit(code)}"
        raise ClusterError(f"{member.name} {_obituary(member, what)}")

    async def _proven(self, prove: Callable[[], Awaitable[None]]) -> None:
        try:
            await prove()
        except ClusterError:
            # If a process died of it, that is seen a moment later, and says more.
            await asyncio.sleep(self._limits.poll_s)
            raise

    async def _launch(self, member: Member) -> None:
        began = time.monotonic()
        await member.process.start()
        self._report(member.name, "starting")
        seen = "starting"
        while (phase := await self._phase(member, began)) != "ready":
            if phase != seen:
                self._report(member.name, phase)
            seen = phase
            await asyncio.sleep(self._limits.poll_s)
        self._report(member.name, f"ready after {time.monotonic() - began:.1f} s")

    async def _phase(self, member: Member, began: float) -> str:
        phase = await member.phase()
        if (code := member.process.exit_code) is not None:
            await member.process.clean()
            raise ClusterError(_obituary(member, f"ended while it started: {describe_exit(code)}"))
        if phase != "ready" and time.monotonic() - began > self._limits.start_s:
            await member.process.stop(0)
            raise ClusterError(
                _obituary(member, f"was not ready after {self._limits.start_s:.0f} s (--start-timeout)")
            )
        return phase

    async def _keep(self, member: Member) -> None:
        while True:
            code = await member.process.wait()
            # Its children may outlive it, and hold the ports that the next run needs.
            await member.process.clean()
            self._report(member.name, _obituary(member, f"died: {describe_exit(code)}"))
            if not await self._bring_back(member):
                return

    async def _bring_back(self, member: Member) -> bool:
        while (delay := member.restart_delay(self._limits)) is not None:
            self._report(member.name, f"restarting in {delay:.0f} s")
            await asyncio.sleep(delay)
            try:
                await self._launch(member)
            except ClusterError as error:
                self._report(member.name, str(error))
            else:
                self._report(member.name, await self._settle(member))
                return True
        member.give_up()
        self._report(member.name, f"given up after {self._limits.restarts} restarts: {member.log}")
        if not self._serves():
            raise ClusterError(f"nothing can serve without {member.name}")
        return False


async def _all(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Runs all of it together; the first failure ends the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _obituary(member: Member, what: str) -> str:
    lines = "".join(f"\n    {line}" for line in last_errors(member.log))
    return f"{what}; last lines of {member.log}:{lines or ' none'}"
