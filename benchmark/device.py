"""What the servers of a benchmark run on, and with: the same flags for all benchmarks that start some."""

from argparse import ArgumentParser
from collections.abc import Sequence

from sglang_memserve.cluster import share
from sglang_memserve.cluster.errors import UsageError

GPU_ATTENTION = "flashinfer"
# SGLang's flags for every server on a GPU: what a model's own file says may be float32.
GPU_FLAGS = ("--dtype", "bfloat16")


def add_flags(parser: ArgumentParser, attention: str) -> None:
    """`attention`: the backend where there is no GPU."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="of every server (default: cuda where there is a GPU)",
    )
    parser.add_argument(
        "--model", "--model-path", help="a local folder or a hub name (default: the embedded model)"
    )
    parser.add_argument(
        "--attention-backend",
        metavar="NAME",
        help=f"of every server (default: {GPU_ATTENTION} on a GPU, else {attention})",
    )
    parser.add_argument(
        "--page-size", type=int, default=16, metavar="TOKENS", help="of every server (default: 16)"
    )


def gpus_of(device: str) -> Sequence[int]:
    """The GPUs that servers get; none on the CPU. Raises UsageError where the machine is not of that kind."""
    found = share.visible_gpus()
    if device == "cuda" and not found:
        raise UsageError("--device cuda: no NVIDIA GPU is visible")
    if device == "cpu" and found:
        raise UsageError(
            f"--device cpu: {len(found)} GPUs are visible, and SGLang would take them: "
            "set CUDA_VISIBLE_DEVICES to nothing"
        )
    return found
