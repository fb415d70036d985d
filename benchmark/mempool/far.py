"""A process of a benchmark's own that does as it is asked, a line of JSON at a time."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

_LEAVE_SECONDS = 5.0
_TAIL = 400


class FarError(RuntimeError):
    """The process failed at what it was asked, died or did not answer in time."""


class Far:
    """Runs `benchmark.mempool.end` with an end of this `kind`, made with `options`.

    It ends when the block is left, and by itself when this process is gone. What it writes to standard error
    is appended to `logs`/`name`.log.
    """

    def __init__(
        self, kind: str, name: str, logs: Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        self.name = name
        self._log = logs / f"{name.replace(' ', '-')}.log"
        command = [sys.executable, "-P", "-m", "benchmark.mempool.end", kind, json.dumps(options)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | dict(env or {}),
                bufsize=0,
            )
        self._read = b""

    def __enter__(self) -> "Far":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, call: str, seconds: float = 120.0, **arguments: Any) -> Any:
        """What the end's method `call` returns. Raises FarError."""
        self.begin(call, **arguments)
        return self.answer(seconds)

    def begin(self, call: str, **arguments: Any) -> None:
        """Asks; `answer` is to be called before the next question."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([call, arguments]).encode() + b"\n")
        except BrokenPipeError:
            raise self._failed("has died") from None

    def answer(self, seconds: float = 120.0) -> Any:
        """Raises FarError."""
        answer = json.loads(self._line(time.monotonic() + seconds, seconds))
        if "error" in answer:
            raise FarError(f"{self.name}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def _line(self, deadline: float, seconds: float) -> bytes:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        while b"\n" not in self._read:
            if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                # A late answer would be taken for that to the next question.
                self._process.kill()
                raise self._failed(f"did not answer within {seconds:g} s")
            part = os.read(output, 1 << 16)
            if not part:
                raise self._failed("has died")
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _failed(self, how: str) -> FarError:
        tail = self._log.read_text(errors="replace")[-_TAIL:].strip()
        return FarError(f"{self.name} {how}" + (f": {tail}" if tail else ""))
