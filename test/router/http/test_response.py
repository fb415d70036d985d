"""The last part of an answer's way: to a client that is gone."""

import asyncio
from collections import Counter

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from router.http.access import AccessLog
from router.http.response import deliver, failures_as_json
from router.metrics.requests import Requests
from router.protocol.answer import UpstreamAnswer


@pytest.mark.parametrize("chunks", [[], [b"data: 1\n\n"]], ids=["end", "chunk"])
async def test_a_client_that_leaves_as_the_next_bytes_are_written_is_no_error(caplog, chunks):
    """A connection is closing for a moment before the handler hears of it."""

    async def rest(request):
        request.transport.abort()
        for chunk in chunks:
            yield chunk

    ended = asyncio.Event()

    async def handler(request):
        try:
            return await deliver(request, UpstreamAnswer(200, {}, b"data: 0\n\n", rest(request)))
        finally:
            ended.set()

    app = web.Application(middlewares=[failures_as_json(Counter())])
    AccessLog(Requests(), enabled=False).watch(app)
    app.router.add_get("/", handler)
    async with TestClient(TestServer(app, handler_cancellation=True)) as client:
        with pytest.raises(aiohttp.ClientError):
            async with client.get("/") as response:
                await response.read()
        await ended.wait()
    assert "Traceback" not in caplog.text
