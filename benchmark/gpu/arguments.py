"""The command line of scripts/test_gpu.sh."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GROUPS = {
    "check": "scripts/check_gpu.py, without SGLang",
    "unit": "the unit tests that need CUDA",
    "parity": "answers are a stock server's, with each attention backend and page size",
    "overlap": "answers of many kinds are a stock server's, and the overlap schedule is seen at work",
    "caching": "answers are a stock server's in every way to keep and to send KV",
    "mla": "parity with a model of multi-head latent attention",
    "leaks": "300 requests to 1P1D, and 1,000 with kills to 2P2D, leave nothing behind",
    "pd": "scripts/bench_pd.py",
    "bench": "scripts/bench_caching.py",
}
MODEL = "Qwen/Qwen3-1.7B"
MLA_MODEL = "deepseek-ai/DeepSeek-V2-Lite-Chat"
_EPILOG = f"""\
The groups of steps:
{chr(10).join(f"  {name:<8} {about}" for name, about in GROUPS.items())}

Exit status: 0 if every step passed, 1 if one did not, 2 without CUDA or for a wrong argument,
130 after Ctrl-C.
"""


@dataclass(frozen=True)
class GpuArguments:
    """`model` and `mla_model`: local folders or hub names. `limit_s`: of each step; None: the step's own.

    `out`: the folder of the report and the logs. `device`: "cpu" tries the same steps without a GPU.
    """

    device: str = "cuda"
    model: str = MODEL
    mla_model: str = MLA_MODEL
    attention_backends: tuple[str, ...] = ("flashinfer", "fa3")
    page_sizes: tuple[int, ...] = (1, 16, 64)
    only: tuple[str, ...] = tuple(GROUPS)
    peer: bool = True
    limit_s: float | None = None
    out: Path = Path("gpu-report")
    plan: bool = False


def parsed(arguments: Sequence[str] | None = None) -> GpuArguments:
    """Exits with a message for a wrong argument."""
    parser = _parser()
    found = parser.parse_args(arguments)
    if (smallest := min(found.page_sizes)) < 1:
        parser.error(f"--page-sizes {smallest}: give at least 1")
    if found.limit_s is not None and found.limit_s <= 0:
        parser.error(f"--limit {found.limit_s:g}: give seconds above 0")
    return GpuArguments(
        device=found.device,
        model=found.model,
        mla_model=found.mla_model,
        attention_backends=tuple(dict.fromkeys(found.attention_backends)),
        page_sizes=tuple(dict.fromkeys(found.page_sizes)),
        only=tuple(name for name in GROUPS if name in (found.only or GROUPS)),
        peer=not found.without_peer,
        limit_s=found.limit_s,
        out=found.out,
        plan=found.plan,
    )


def _parser() -> argparse.ArgumentParser:
    default = GpuArguments()
    parser = argparse.ArgumentParser(
        prog="scripts/test_gpu.sh",
        description="Tests and measures MemServe on the GPUs of this host, with SGLang. Hours; see --plan.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--plan", action="store_true", help="print every step, and run nothing")
    parser.add_argument(
        "--only", nargs="+", choices=tuple(GROUPS), metavar="GROUP", help="these groups alone (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, default=default.out, metavar="DIR",
        help="results.json, results.md and logs/ go here (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--model", "--model-path", default=default.model, help="of all but `mla` (default: %(default)s)"
    )
    parser.add_argument("--mla-model", default=default.mla_model, help="(default: %(default)s, 31 GB)")
    parser.add_argument(
        "--attention-backends", nargs="+", default=list(default.attention_backends), metavar="NAME",
        help="of parity and mla; the first is that of all else (default: flashinfer fa3)",
    )  # fmt: skip
    parser.add_argument(
        "--page-sizes", nargs="+", type=int, default=list(default.page_sizes), metavar="TOKENS",
        help="of parity (default: 1 16 64)",
    )  # fmt: skip
    parser.add_argument("--without-peer", action="store_true", help="without Mooncake and sglang-router")
    parser.add_argument(
        "--limit", type=float, dest="limit_s", metavar="S", help="of each step (default: its own, see --plan)"
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default=default.device,
        help="cpu: try the steps without a GPU; name a backend and a small model (default: cuda)",
    )  # fmt: skip
    return parser
