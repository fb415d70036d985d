"""bench_mempool.py, whose processes are forked from it with torch loaded: `run_bench_mempool.py FLAG...`."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from benchmark.mempool import far

ROOT = Path(__file__).parents[2]


def main():
    sys.path.append(str(ROOT / "test" / "support"))
    from zygote import ForkPopen

    vars(far)["subprocess"] = SimpleNamespace(**{**vars(subprocess), "Popen": ForkPopen})
    runpy.run_path(str(ROOT / "scripts" / "bench_mempool.py"), run_name="__main__")


if __name__ == "__main__":
    main()
