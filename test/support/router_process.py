"""The router as a process of its own, with limits of its own, before a mock instance."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from router_cluster import MockInstance

ROOT = Path(__file__).parents[2]
PROGRAM = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
from router.launch_router import main
sys.exit(main())
"""


@pytest.fixture
async def process(free_port):
    """`await process(descriptors, *argv)`: a router, its `mock` instance, a `session`, its `log`."""
    async with AsyncExitStack() as stack:

        async def start(descriptors, *argv):
            mock = MockInstance(free_port())
            await mock.start()
            stack.push_async_callback(mock.die)
            port = free_port()
            argv = ("--worker-urls", mock.url, "--port", str(port), "--no-access-log", *argv)
            router = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", PROGRAM, str(descriptors), *argv),
                stderr=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            stack.push_async_callback(router.wait)
            stack.callback(lambda: router.returncode is None and router.kill())
            lines = []
            while not lines or b"listening on" not in lines[-1]:
                lines.append(await router.stderr.readline())
                assert lines[-1], b"".join(lines)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            log = asyncio.create_task(router.stderr.read())
            return SimpleNamespace(
                url=f"http://127.0.0.1:{port}", session=session, mock=mock, router=router, log=log
            )

        yield start


async def post(cluster, **body):
    async with cluster.session.post(cluster.url + "/generate", json=body or {"text": "a"}) as response:
        return response.status, await response.read()


async def metric(cluster, name):
    """The sum of the router's metrics whose names begin so."""
    async with cluster.session.get(cluster.url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("memserve:router_" + name))
