"""The host: whether PyTorch finds CUDA there, and what it is made of."""

import json
import subprocess
import sys
from typing import Any

from benchmark.gpu.plan import ROOT
from sglang_memserve.machine import machine_description

_PROBE_S = 120
# In a process of its own: what has looked at CUDA holds some of a GPU's memory.
_PROBE = """
import json, torch
gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
print(json.dumps({"cuda": torch.version.cuda, "gpus": [
    {"name": gpu.name, "gb": round(gpu.total_memory / 1e9), "capability": f"{gpu.major}.{gpu.minor}"}
    for gpu in gpus
]}))
"""
_PACKAGES = ("sglang-memserve", "sglang", "torch", "triton", "flashinfer-python", "sglang-kernel")


class NoCuda(RuntimeError):
    """There is no GPU that PyTorch can use. The message says what to do."""


def cuda_devices() -> dict[str, Any]:
    """CUDA's version and the GPUs. Raises NoCuda."""
    command = [sys.executable, "-c", _PROBE]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S)
        found: dict[str, Any] = json.loads(probe.stdout.splitlines()[-1]) if probe.returncode == 0 else {}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise NoCuda(f"PyTorch could not be asked for GPUs: {error}") from error
    if probe.returncode:
        raise NoCuda(f"PyTorch does not run here: {probe.stderr.strip().rpartition(chr(10))[2]}")
    if not found["gpus"]:
        raise NoCuda("PyTorch finds no CUDA device")
    return found


def description() -> dict[str, Any]:
    """The machine, its software, and what is checked out."""
    return {
        **machine_description(*_PACKAGES),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "commit": _output("git", "rev-parse", "HEAD"),
        "changed_files": len((_output("git", "status", "--porcelain") or "").splitlines()),
    }


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_PROBE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.strip()
    return lines.splitlines()[0] if command[0] == "nvidia-smi" and lines else lines
