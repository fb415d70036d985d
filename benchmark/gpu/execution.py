"""One step from its start to its end: in processes that are all gone then, with its output in a log file."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.gpu.containment import INTERRUPTED, TIMED_OUT, contained
from benchmark.gpu.plan import ROOT, GpuStep

# A cluster needs some of it to end by itself.
_GRACE_S, _PROGRESS_S = 60.0, 60.0
_WIDTH = 160
_PYTEST_END = re.compile(r"^=* ?(\d+ \w+.* in [\d.]+s.*?) ?=*$")


@dataclass(frozen=True)
class StepResult:
    """`status`: passed, failed, timed out or interrupted. `figures`: the JSON object of a step that measures;
    None where it gave none. `log` is relative to the report's folder.
    """

    name: str
    about: str
    command: str
    status: str
    exit_code: int
    seconds: float
    summary: str
    figures: dict[str, Any] | None
    log: str

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def execute(
    step: GpuStep,
    log: Path,
    say: Callable[[str], None],
    *,
    grace_s: float = _GRACE_S,
    progress_s: float = _PROGRESS_S,
) -> StepResult:
    """Runs the step, and says now and then where it is. On Ctrl-C it ends the step: see its status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    code = _run(step, log, say, grace_s, progress_s)
    lines = log.read_text(errors="replace").splitlines()
    figures = _figures(lines) if step.measures else None
    return StepResult(
        name=step.name,
        about=step.about,
        command=command_of(step),
        status=_status(code),
        exit_code=code,
        seconds=round(time.monotonic() - began, 1),
        summary=_summary(lines, figures),
        figures=figures,
        log=f"{log.parent.name}/{log.name}",
    )


def command_of(step: GpuStep) -> str:
    """As it is typed in a shell, from the repository's root."""
    return " ".join([*(f"{name}={value}" for name, value in step.env.items()), shlex.join(step.argv)])


def _run(step: GpuStep, log: Path, say: Callable[[str], None], grace_s: float, progress_s: float) -> int:
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            contained(step.argv, step.limit_s, grace_s),
            cwd=ROOT,
            env=os.environ | step.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while True:
            try:
                return process.wait(progress_s)
            except subprocess.TimeoutExpired:
                lines = log.read_text(errors="replace").splitlines()
                say(f"{time.monotonic() - began:.0f} s: {_last(lines)}")
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        return INTERRUPTED


def _status(code: int) -> str:
    return {0: "passed", TIMED_OUT: "timed out", INTERRUPTED: "interrupted"}.get(code, "failed")


def _figures(lines: list[str]) -> dict[str, Any] | None:
    """The last line that is a JSON object: what others write to the log may come after it."""
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return None


def _summary(lines: list[str], figures: dict[str, Any] | None) -> str:
    bars = (figures or {}).get("bars", [])
    if bars:
        return f"{sum(bool(bar['ok']) for bar in bars)} of {len(bars)} bars met"
    ends = (match.group(1) for line in reversed(lines) if (match := _PYTEST_END.match(line)))
    return next(ends, _last(lines))


def _last(lines: list[str]) -> str:
    return next((line.strip()[:_WIDTH] for line in reversed(lines) if line.strip()), "no output")
