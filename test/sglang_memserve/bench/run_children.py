"""A benchmark that starts one mock worker and waits: `run_children.py PORT FOLDER [fail]`."""

import asyncio
import sys
from pathlib import Path

from benchmark.load import LoadError
from sglang_memserve.bench import children
from sglang_memserve.cluster import probe


async def benchmark(port, folder, *how):
    argv = [sys.executable, "-m", "benchmark.mock_worker", "--port", port]
    async with probe.client() as session:
        url = f"http://127.0.0.1:{port}"
        member = children.answering("worker", argv, url, Path(folder), session)
        async with children.running([member], 30):
            print("running", flush=True)
            if how:
                raise ExceptionGroup("of a task group", [LoadError("answered 500")])
            await asyncio.sleep(60)


sys.exit(children.run(benchmark(*sys.argv[1:])))
