"""Answers that are decoded together: what one step takes, and which threads have the CPU meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from sglang_memserve.bench.clusters import System
from sglang_memserve.bench.serving.answer import StreamedAnswer
from sglang_memserve.bench.serving.apis import Generate, RequestSettings
from sglang_memserve.bench.serving.client import Client
from sglang_memserve.bench.workloads.form import WorkloadTurn
from sglang_memserve.cluster.errors import ClusterError

RUN, WAIT = "run", "wait"
SCHEDULER, ITS_OTHERS, OTHERS, ROUTER = (
    "scheduler's thread",
    "its process's others",
    "HTTP and detokenizer",
    "router",
)
ThreadSeconds = Mapping[tuple[str, str], float]
"""By whose threads they are, and RUN or WAIT."""
_TOKEN_IDS = range(1000, 40_000)
_PROMPT_TOKENS = 64
_MS = 1e3


class WatchedThreads:
    """The threads of a system's decode instance and of its router. Linux counts for each how long it ran,
    and how long it waited for a core (`/proc/PID/task/TID/schedstat`).

    Raises ClusterError where a process does not listen where the system says.
    """

    def __init__(self, system: System) -> None:
        (decode,) = (spec for spec in system.instances if spec.role == "decode")
        self._router, self._instance = _listener(system.url), _listener(decode.url)

    def seconds(self) -> ThreadSeconds:
        found: dict[tuple[str, str], float] = defaultdict(float)
        self._add(found, self._router, ROUTER)
        for process in [self._instance, *self._instance.children(recursive=True)]:
            if process.name().startswith("sglang::schedul"):
                self._add(found, process, ITS_OTHERS, first=SCHEDULER)
            else:
                self._add(found, process, OTHERS)
        return found

    def _add(
        self, found: dict[tuple[str, str], float], process: psutil.Process, whose: str, *, first: str = ""
    ) -> None:
        """`first`: whose the process's first thread is, if it is another's."""
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            name = first if first and task.name == str(process.pid) else whose
            try:
                ran, waited, _ = map(int, (task / "schedstat").read_text().split())
            except OSError:
                continue  # it has ended
            found[name, RUN] += ran / 1e9
            found[name, WAIT] += waited / 1e9


def _listener(url: str) -> psutil.Process:
    port = urlsplit(url).port
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid)
    raise ClusterError(f"nothing of this user listens at {url}")


@dataclass(frozen=True)
class _Mark:
    at: float
    tokens: int
    threads: ThreadSeconds


class DecodeWindow:
    """From when all of `streams` answers have begun until the first has `length` tokens: all are decoded in
    each step then.
    """

    def __init__(
        self,
        streams: int,
        length: int,
        threads: Callable[[], ThreadSeconds],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._streams = streams
        self._length = length
        self._threads = threads
        self._tokens: dict[object, int] = {}
        self._opened: _Mark | None = None
        self._closed: _Mark | None = None

    def saw(self, answer: object, tokens: int) -> None:
        """An answer has so many tokens now."""
        self._tokens[answer] = tokens
        if self._opened is None and len(self._tokens) == self._streams:
            self._opened = self._mark()
        if self._closed is None and tokens >= self._length:
            self._closed = self._mark()

    def figures(self) -> Mapping[str, float]:
        """Milliseconds of a step, and of it those that threads ran or waited. Raises ClusterError where the
        answers were not decoded together.
        """
        opened, closed = self._opened, self._closed
        if opened is None or closed is None or closed.tokens <= opened.tokens:
            raise ClusterError(f"{self._streams} answers of {self._length} tokens did not overlap: --tokens")
        steps = (closed.tokens - opened.tokens) / self._streams
        spent = {key: seconds - opened.threads.get(key, 0.0) for key, seconds in closed.threads.items()}
        return {
            "step_ms": _MS * (closed.at - opened.at) / steps,
            **{f"{whose}: {what}_ms": _MS * seconds / steps for (whose, what), seconds in spent.items()},
        }

    def _mark(self) -> _Mark:
        return _Mark(self._clock(), sum(self._tokens.values()), self._threads())


class _Watched(Generate):
    def __init__(self, window: DecodeWindow) -> None:
        super().__init__(RequestSettings())
        self._window = window

    def on_event(self, event: dict[str, Any], at: float, answer: StreamedAnswer) -> None:
        super().on_event(event, at, answer)
        self._window.saw(self, answer.tokens)


async def decode_together(
    client: Client, threads: Callable[[], ThreadSeconds], streams: int, tokens: int, seed: str
) -> Mapping[str, float]:
    """Asks for `streams` answers of `tokens` tokens at once, after prompts that no other `seed` has.

    `threads`: as `WatchedThreads.seconds`.
    Raises ClusterError, RequestError.
    """
    window, rng = DecodeWindow(streams, tokens, threads), random.Random(seed)

    async def ask() -> None:
        asked = _Watched(window)
        prompt = tuple(rng.choices(_TOKEN_IDS, k=_PROMPT_TOKENS))
        await client.ask(asked, asked.ask(WorkloadTurn(tokens=prompt, output_tokens=tokens)))

    await asyncio.gather(*(ask() for _ in range(streams)))
    return window.figures()
