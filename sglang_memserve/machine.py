"""The machine that figures were measured on."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")


def machine_description(*packages: str) -> dict[str, Any]:
    """Processor, cores, kernel, Python, and the versions of those of `packages` that are installed."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version for name in packages if (version := _version(name))},
    }


def cpu_name() -> str:
    """As the kernel names it, or the architecture where it names none."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
