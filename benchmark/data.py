"""Where public tables and traces lie, which are not part of the repository."""

import os
from pathlib import Path

# Not MEMSERVE_...: those are settings, and a server refuses one that it does not know.
VARIABLE = "BENCHMARK_DATA"
_BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared"


def folder() -> Path:
    """`$BENCHMARK_DATA`, or the folder `shared` beside the checkout. It need not be there."""
    return Path(os.environ.get(VARIABLE) or _BESIDE_THE_CHECKOUT)


def tables() -> Path:
    """The operators of an H100, as benchmark/cost/tables.py reads them."""
    return folder() / "perf"


def traces() -> Path:
    """Workloads, as `memserve bench --traces` reads them."""
    return folder() / "traces"
