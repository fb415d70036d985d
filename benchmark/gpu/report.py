"""What the steps have come to: one JSON file, and the same as a page."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.gpu import page
from benchmark.gpu.arguments import GpuArguments
from benchmark.gpu.containment import INTERRUPTED
from benchmark.gpu.execution import StepResult
from benchmark.gpu.plan import GpuStep


@dataclass
class GpuReport:
    """`planned`: all steps; `done`: the results of those that have run, in that order."""

    asked: GpuArguments
    machine: dict[str, Any]
    planned: list[GpuStep]
    done: list[StepResult] = field(default_factory=list)
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def exit_status(self) -> int:
        if any(result.exit_code == INTERRUPTED for result in self.done):
            return INTERRUPTED
        return 0 if len(self.done) == len(self.planned) and all(result.passed for result in self.done) else 1

    def as_dict(self) -> dict[str, Any]:
        settings = asdict(self.asked) | {"out": str(self.asked.out)}
        return {
            "machine": self.machine,
            "settings": settings,
            "began": self.began,
            "steps": [asdict(result) for result in self.done],
            "not_run": [step.name for step in self.planned[len(self.done) :]],
        }

    def write(self) -> None:
        """After each step: whatever ends the run, what was found is there."""
        self.asked.out.mkdir(parents=True, exist_ok=True)
        found = self.as_dict()
        _replace(self.asked.out / "results.json", json.dumps(found, indent=1) + "\n")
        _replace(self.asked.out / "results.md", page.rendered(found))


def _replace(path: Path, text: str) -> None:
    """At once: who reads meanwhile gets the old one, or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
