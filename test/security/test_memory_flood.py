"""What clients make the router keep: bodies, what their JSON becomes, and answers that nobody reads."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import psutil
import pytest
from raw_http import exchange, request
from router_process import metric, post, process
from waiting import eventually

__all__ = ["process"]
MIB = 1 << 20
SMALL = request("POST", "/generate", b'{"text": "a"}')
LARGE = [
    b'{"text": "%s"}' % (8 * MIB * b"a"),
    b'{"text": "a", "x": [%s0]}' % (MIB * b"[],"),
    b'{"text": "a", "x": [%s0]}' % (MIB * b'{"a":1},'),
    b'{"text": "a", "x": {%s}}' % b",".join(b'"%d":0' % number for number in range(MIB // 2)),
]


def rss(cluster):
    return psutil.Process(cluster.router.pid).memory_info().rss


class Peak:
    """The router's memory, looked at until the block ends; MiB above what it was."""

    def __init__(self, cluster):
        self._cluster, self._before, self.mib = cluster, rss(cluster), 0.0

    async def __aenter__(self):
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self):
        while True:
            self.mib = max(self.mib, (rss(self._cluster) - self._before) / MIB)
            await asyncio.sleep(0.01)


async def statuses(cluster, sent, count):
    answers = await asyncio.gather(*(exchange(cluster, sent) for _ in range(count)))
    return [status for status, _, _ in answers]


@pytest.mark.parametrize("body", LARGE, ids=["text", "lists", "objects", "names"])
async def test_a_flood_of_large_bodies_takes_no_more_than_its_share(process, body):
    cluster = await process(4096, "--max-body-memory", str(128 * MIB))
    mock = cluster.mock
    mock.hold = True
    sent = request("POST", "/generate", body)
    async with Peak(cluster) as peak:
        flood = asyncio.create_task(statuses(cluster, sent, 40))
        # What is refused is refused while the others run.
        while not await metric(cluster, 'refused_total{reason="body_memory"}'):
            await asyncio.sleep(0.02)
        small = asyncio.create_task(post(cluster))
        await eventually(lambda: any(len(raw) < 100 for _, raw, _ in mock.seen))
        mock.release.set()
        assert (await small)[0] == 200
        got = await flood
    assert set(got) <= {200, 503, 413, None}
    assert 503 in got or 413 in got
    # Beyond the share: buffers of 40 connections, and what the allocator keeps.
    assert peak.mib < 128 + 128
    assert await metric(cluster, "body_memory_bytes") == 0
    assert (await post(cluster))[0] == 200


async def test_uploads_that_stand_still_keep_nobody_out(process):
    cluster = await process(4096, "--max-body-memory", str(64 * MIB))
    where = urlsplit(cluster.url)
    writers = []
    for _ in range(10):
        _, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % (20 * MIB))
        writer.write(4 * MIB * b"a")
        writers.append(writer)
    while await metric(cluster, "body_memory_bytes") < 32 * MIB:
        await asyncio.sleep(0.02)
    for _ in range(10):
        assert (await post(cluster, text=2 * MIB * "a"))[0] == 200
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("path", ["/openapi.json", "/generate"])
async def test_answers_that_nobody_reads_are_not_piled_up(process, path):
    cluster = await process(4096, "--send-timeout-secs", "1")
    cluster.mock.answer = b'{"text": "%s"}' % (500_000 * b"a")
    where = urlsplit(cluster.url)
    ask = request("GET", path) if path != "/generate" else SMALL
    writers = []
    async with Peak(cluster) as peak:
        for _ in range(8):
            _, writer = await asyncio.open_connection(where.hostname, where.port, limit=1)
            writer.write(1000 * ask)
            writers.append(writer)
        # All are cut off, though each has more to ask.
        while await metric(cluster, 'refused_total{reason="slow_reader"}') < 8:
            await asyncio.sleep(0.05)
    assert peak.mib < 96
    assert (await post(cluster))[0] == 200
    for writer in writers:
        writer.close()


async def test_large_heads_behind_a_request_that_runs_are_cut_off(process):
    cluster = await process(4096)
    cluster.mock.hold = True
    where = urlsplit(cluster.url)
    writers = []
    head = request("GET", "/liveness", X_A=50_000 * "a", X_B=10_000 * "b")
    async with Peak(cluster) as peak:
        for _ in range(100):
            _, writer = await asyncio.open_connection(where.hostname, where.port)
            writer.write(SMALL + 31 * head)
            writers.append(writer)
        while await metric(cluster, "connections") > 3:
            await asyncio.sleep(0.02)
    assert peak.mib < 64
    for writer in writers:
        writer.close()


async def test_small_requests_may_be_pipelined(process):
    cluster = await process(4096)
    where = urlsplit(cluster.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(500 * request("GET", "/liveness") + request("GET", "/liveness", Connection="close"))
    assert (await reader.read()).count(b"HTTP/1.1 200") == 501
    writer.close()


async def test_a_stream_that_nobody_reads_is_aborted_at_the_instance(process):
    cluster = await process(4096, "--send-timeout-secs", "0.5")
    mock = cluster.mock
    mock.chunks = [b'data: {"text": "%s"}\n\n' % (100_000 * b"a")] * 10_000
    where = urlsplit(cluster.url)
    _, writer = await asyncio.open_connection(where.hostname, where.port, limit=1)
    async with Peak(cluster) as peak:
        writer.write(request("POST", "/generate", b'{"text": "a", "rid": "slow", "stream": true}'))
        await asyncio.wait_for(mock.aborted.wait(), 30)
        await eventually(lambda: [body["rid"] for body, _ in mock.aborts] == ["slow"])
    assert peak.mib < 32
    with contextlib.suppress(ConnectionError):
        writer.close()


async def test_a_client_that_reads_slowly_but_reads_gets_all(process):
    cluster = await process(4096, "--send-timeout-secs", "1")
    cluster.mock.answer = b'{"text": "%s"}' % (12 * MIB * b"a")
    where = urlsplit(cluster.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 16)
    writer.write(SMALL)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head
    got = 0
    while got < len(cluster.mock.answer):
        got += len(await reader.read(1 << 20))
        await asyncio.sleep(0.02)
    assert got == len(cluster.mock.answer)
    writer.close()
