"""What bench_pd takes for P's own time, and when it calls a bar met."""

import json

import aiohttp
import pytest
from aiohttp import web

from sglang_memserve.bench.clusters import System
from sglang_memserve.bench.figures import Rounds
from sglang_memserve.cluster.errors import ClusterError


@pytest.fixture(scope="module")
def bench_pd(load_script):
    return load_script("bench_pd")


@pytest.fixture
async def way(bench_pd, tmp_path, free_port):
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
        made = bench_pd.Ways(System("ours", f"http://127.0.0.1:{port}", ()), session, tmp_path)
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


async def test_times_that_do_not_come_end_the_benchmark(bench_pd, way, monkeypatch):
    made, _ = way
    monkeypatch.setattr(bench_pd, "STATS_S", 0.1)
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


def test_bars_compare_medians_with_the_peer_of_the_same_run(bench_pd):
    rounds = Rounds()
    for tokens, ours, theirs in ((2048, 60.0, 80.0), (6144, 300.0, 200.0)):
        rounds.note(f"{tokens} tokens", bench_pd.OURS, handoff_ms=ours)
        rounds.note(f"{tokens} tokens", bench_pd.MOONCAKE, handoff_ms=theirs)
    values = [(bar.value, bar.ok) for bar in bench_pd.bars(rounds)]
    assert values == [(0.75, True), (1.5, False), (None, False)]
