"""This machine's cores, memory and GPUs, shared out to instances."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mempool.host_memory import CGROUP
from sglang_memserve.cluster.errors import ClusterError

PROCESS_BYTES = (
    4_500_000_000  # what SGLang's three processes of one instance take, beside weights and KV of any size
)
MAX_POOL_TOKENS = 65_536  # more rarely helps on a CPU, and takes memory from everything else


def threads_each(cores: int, instances: int) -> int:
    """Threads for each instance: disjoint while there are cores enough, else one."""
    return max(1, cores // instances)


def pool_tokens(
    available: int, instances: int, token_bytes: int, context: int, page: int, weight_bytes: int = 0
) -> int:
    """KV tokens for each instance out of `available` bytes of memory, in whole pages.

    At most MAX_POOL_TOKENS, or one context if that is more. `weight_bytes` are those of the model's weights.

    Raises ClusterError if not even one prompt of `context` tokens would fit.
    """
    room = available // instances - PROCESS_BYTES - weight_bytes
    whole_context = -(-context // page) * page
    tokens = min(room // token_bytes, max(MAX_POOL_TOKENS, whole_context)) // page * page
    if tokens < context:
        raise ClusterError(
            f"not enough memory for {instances} instances: {available / 1e9:.1f} GB are free, each needs "
            f"{PROCESS_BYTES / 1e9:.1f} GB for its processes, {weight_bytes / 1e9:.2f} GB for the weights "
            f"and {context * token_bytes / 1e9:.2f} GB for the KV of one context of {context} tokens. "
            "Start fewer, free memory, or set --max-total-tokens"
        )
    return tokens


def available_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may run on, at most a container's limit on CPU time, rounded up."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = map(int, (cgroup / "cpu.max").read_text().split())
        return min(cores, -(-quota // period))
    except (OSError, ValueError, ZeroDivisionError):
        return cores  # "max" is no number: there is no limit


def visible_gpus() -> list[int]:
    """NVIDIA GPUs by number, those of CUDA_VISIBLE_DEVICES if that is set. Empty without a driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None or chosen == "":
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = list(range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines())))
    if chosen is None:
        return gpus
    try:
        return [int(gpu) for gpu in chosen.split(",")]
    except ValueError:
        raise ClusterError(
            f"CUDA_VISIBLE_DEVICES={chosen}: give the GPUs by number, so that instances can share them out"
        ) from None


def gpus_each(gpus: list[int], wanted: Sequence[int]) -> list[tuple[int, ...]]:
    """GPUs of its own for each instance, as many as it wants; nothing on a host without GPUs.

    Raises ClusterError if there are fewer than that.
    """
    if not gpus:
        return [()] * len(wanted)
    if sum(wanted) > len(gpus):
        raise ClusterError(
            f"{len(wanted)} instances (with --tp and --pp) need {sum(wanted)}, {len(gpus)} are visible: "
            "start fewer"
        )
    left = iter(gpus)
    return [tuple(itertools.islice(left, count)) for count in wanted]
