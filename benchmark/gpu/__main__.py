"""From the command line to the report."""

import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmark.gpu import host
from benchmark.gpu.arguments import GpuArguments, parsed
from benchmark.gpu.containment import INTERRUPTED
from benchmark.gpu.execution import command_of, execute
from benchmark.gpu.plan import GpuStep, steps
from benchmark.gpu.report import GpuReport


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parsed(arguments)
    planned = steps(asked)
    if asked.plan:
        print(described(planned))
        return 0
    try:
        devices = host.cuda_devices() if asked.device == "cuda" else {}
    except host.NoCuda as error:
        print(f"test_gpu: {error}. --plan prints what would run; see docs/start/gpu.md", file=sys.stderr)
        return 2
    # In the background of a script SIGINT is ignored otherwise, by all that is started too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    return run(asked, planned, devices)


def described(planned: Sequence[GpuStep]) -> str:
    lines = []
    for number, step in enumerate(planned, 1):
        lines.append(f"{number:>2}. {step.name}: {step.about} (at most {step.limit_s / 60:.0f} min)")
        lines.append(f"    {command_of(step)}")
    return "\n".join(
        [*lines, f"{len(planned)} steps, in the repository's root; one that fails stops no other"]
    )


def run(asked: GpuArguments, planned: list[GpuStep], devices: dict[str, Any]) -> int:
    """Runs all steps, or until it is interrupted. Returns the exit status."""
    report = GpuReport(asked, host.description() | devices, planned)
    try:
        for number, step in enumerate(planned, 1):
            place = f"[{number}/{len(planned)}] {step.name}"
            print(f"{place} ...", flush=True)
            log = asked.out / "logs" / f"{number:02}-{_file_name(step.name)}.log"
            result = execute(step, log, partial(_say, place))
            report.done.append(result)
            report.write()
            print(f"{place}: {result.status} in {result.seconds:.0f} s: {result.summary}", flush=True)
            if result.exit_code == INTERRUPTED:
                break
    except KeyboardInterrupt:
        return INTERRUPTED
    passed = sum(result.passed for result in report.done)
    print(f"{passed} of {len(planned)} steps passed: see results.md and results.json in {asked.out}")
    return report.exit_status


def _say(place: str, text: str) -> None:
    print(f"{place}: {text}", flush=True)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")


if __name__ == "__main__":
    sys.exit(main())
