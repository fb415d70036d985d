"""The router's own end: what runs may end, nothing new begins."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import aiohttp
import pytest

from router.config.settings import RouterConfig
from router.http.server import serving


@pytest.fixture
async def stopping(start, free_port):
    """`await stopping(grace)`: a router that a request is held at, and the task that stops it."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def stopping(grace):
            mock = (await start(colocated=1)).colocated[0]
            mock.hold = True
            port = free_port()
            config = RouterConfig(colocated=(mock.url,), port=port, shutdown_grace_period_secs=grace)
            url = f"http://127.0.0.1:{port}"
            router = AsyncExitStack()
            await router.enter_async_context(serving(config))
            held = asyncio.create_task(ask(session, "POST", url + "/generate"))
            await mock.arrived.wait()
            end = asyncio.create_task(router.aclose())
            return mock, url, held, end

        yield stopping


async def ask(session, method, url):
    async with session.request(method, url, json={"rid": "mine"}) as response:
        return response.status, await response.read()


async def test_new_requests_get_503_and_those_that_run_may_end(stopping):
    mock, url, held, end = await stopping(20)
    async with aiohttp.ClientSession() as session:
        while (await ask(session, "GET", url + "/health"))[0] != 503:
            await asyncio.sleep(0.01)
        for method, path in (("POST", "/generate"), ("GET", "/health"), ("GET", "/v1/models")):
            status, answer = await ask(session, method, url + path)
            assert (status, json.loads(answer)["error"]["type"]) == (503, "stopping")
        # Who watches, and who gives up, is heard.
        assert (await ask(session, "GET", url + "/liveness"))[0] == 200
        assert json.loads((await ask(session, "GET", url + "/workers"))[1])["workers"][0]["in_flight"] == 1
        assert (await ask(session, "POST", url + "/abort_request"))[0] == 200
    assert [body["rid"] for body, _ in mock.aborts] == ["mine"]
    assert not end.done()
    mock.release.set()
    assert await held == (200, mock.answer)
    await end
    assert len(mock.seen) == 1


async def test_what_does_not_end_is_broken_off_after_the_grace(stopping):
    began = time.monotonic()
    mock, _, held, end = await stopping(0.2)
    await asyncio.gather(end, mock.aborted.wait())
    assert time.monotonic() - began >= 0.2
    with pytest.raises(aiohttp.ClientError):
        await held


async def test_with_nothing_running_it_ends_at_once(start, free_port):
    mock = (await start(colocated=1)).colocated[0]
    config = RouterConfig(colocated=(mock.url,), port=free_port(), shutdown_grace_period_secs=1000)
    async with asyncio.timeout(10):
        async with serving(config):
            pass
