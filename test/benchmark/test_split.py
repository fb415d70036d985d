"""What is taken for P's own time, and what is no figure at all."""

import json

import aiohttp
import pytest
from aiohttp import web

from benchmark import split
from sglang_memserve.bench.clusters import System
from sglang_memserve.cluster.errors import ClusterError


@pytest.fixture
async def way(tmp_path, free_port):
    """A system whose router answers any request with what `way.answer` holds."""
    port, answer = free_port(), {"status": 200, "body": b"data: {}\n\ndata: [DONE]\n\n"}

    async def generate(_):
        return web.Response(status=answer["status"], body=answer["body"])

    app = web.Application()
    app.add_routes([web.post("/generate", generate)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with aiohttp.ClientSession() as session:
        made = split.Ways(System("ours", f"http://127.0.0.1:{port}", ()), session, tmp_path)
        yield made, answer
    await runner.cleanup()


def entry(rid, received, finished):
    times = {"request_received_ts": received, "forward_entry_time": received + 0.25}
    return json.dumps({"id": rid, "prefill_finished_time": finished, **times}) + "\n"


async def test_times_are_those_of_the_request(way, tmp_path):
    made, _ = way
    (tmp_path / "a.log").write_text(entry("one", 100.0, 101.5) + entry("two", 200.0, 200.25))
    (tmp_path / "b.log").write_text(entry("three", 300.0, 304.0) + '{"id": "half')
    assert await made.times("one") == (1.5, 1.25)
    assert await made.times("three") == (4.0, 3.75)


async def test_times_that_do_not_come_end_the_benchmark(way, monkeypatch):
    made, _ = way
    monkeypatch.setattr(split, "STATS_S", 0.1)
    with pytest.raises(ClusterError, match="no times for lost"):
        await made.times("lost")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b"no instance"),
        (200, b'data: {"error": {"message": "aborted"}}\n\ndata: [DONE]\n\n'),
        (200, b'data: {"text": "x"}\n\n'),
    ],
)
async def test_a_failed_request_is_no_figure(way, status, body):
    made, answer = way
    assert await made.ttft([1, 2, 3], "good") > 0
    answer |= {"status": status, "body": body}
    with pytest.raises(ClusterError, match=f"ours answered {status}"):
        await made.ttft([1, 2, 3], "bad")
