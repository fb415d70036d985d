"""The benchmarks' client against their mock worker, and against servers that misbehave."""

import asyncio
import itertools
import json
from contextlib import AsyncExitStack

import aiohttp
import pytest

from benchmark import mock_worker
from benchmark.http_wire import Reader, WireError, chunk, request, response
from benchmark.load import LoadClient, LoadError, RequestTiming, closed_loop, milliseconds, open_loop
from benchmark.mock_worker import ANSWER, DONE, EVENT, Pace

PLAIN, STREAM = json.dumps({"text": "hi"}).encode(), json.dumps({"text": "hi", "stream": True}).encode()


@pytest.fixture
async def paced(free_port):
    """Starts mock workers, and returns their URLs."""
    async with AsyncExitStack() as stack:

        async def start(pace):
            port = free_port()
            await stack.enter_async_context(await mock_worker.serve("127.0.0.1", port, pace))
            return f"http://127.0.0.1:{port}"

        yield start


@pytest.fixture
async def worker(paced):
    """The URL of a mock worker whose streams have three events at once."""
    return await paced(Pace(3, 0.0))


@pytest.fixture
async def answering(free_port):
    """Starts servers that answer any request with given bytes, and close the connection if asked to."""
    servers = []

    async def start(raw, close=False):
        async def answer(reader, writer):
            while await reader.read(65536):
                writer.write(raw)
                if close:
                    break
            writer.close()

        port = free_port()
        servers.append(await asyncio.start_server(answer, "127.0.0.1", port))
        return f"http://127.0.0.1:{port}"

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_messages_are_read_in_pieces_of_any_size(size):
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n" + chunk(b"one") + chunk(b"two")
    for raw, body in (
        (response(200, b"x" * 500), b"x" * 500),
        (response(200, b""), b""),
        (request("/generate", b"{}", "host"), b"{}"),
        (chunked + b"0\r\n\r\n", b"onetwo"),
    ):
        reader = Reader()
        for start in range(0, len(raw), size):
            assert not reader.complete
            reader.feed(raw[start : start + size])
        assert (reader.complete, reader.body, reader.rest) == (True, body, b"")


def test_what_follows_a_message_is_kept():
    reader = Reader()
    reader.feed(response(200, b"first") + b"second")
    assert (reader.body, reader.rest) == (b"first", b"second")


def test_a_chunk_of_no_size_is_refused():
    with pytest.raises(WireError, match="chunk"):
        Reader().feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")


async def test_a_common_client_reads_the_worker(worker):
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{worker}/generate", data=PLAIN) as plain:
            assert await plain.read() == ANSWER
        async with session.post(f"{worker}/generate", data=STREAM) as stream:
            assert stream.content_type == "text/event-stream"
            assert await stream.read() == EVENT * 3 + DONE
        async with session.get(f"{worker}/model_info") as info:
            assert info.status == 200
        async with session.post(f"{worker}/v1/completions", data=PLAIN) as other:
            assert other.status == 404


async def test_the_worker_ends_a_stream_before_it_answers_the_next_request(free_port):
    port = free_port()
    async with await mock_worker.serve("127.0.0.1", port, Pace(3, 0.05)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/generate", STREAM, "host"))
        both = await asyncio.wait_for(reader.read(65536), 10)
        writer.write(request("/generate", PLAIN, "host"))
        while not both.endswith(ANSWER):
            both += await asyncio.wait_for(reader.read(65536), 10)
        writer.close()
    assert both.index(DONE) < both.index(ANSWER)


async def test_the_worker_drops_what_is_not_http_1_1(worker):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.rsplit(":", 1)[1]))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_stream_is_timed_to_its_first_event_and_its_end(paced):
    async with LoadClient(await paced(Pace(3, 0.05))) as client:
        timing = await client.ask(STREAM)
    assert timing.last - timing.first >= 0.09


async def test_connections_are_kept(worker, monkeypatch):
    made = []
    connect = asyncio.get_running_loop().create_connection

    async def counted(*args):
        made.append(args)
        return await connect(*args)

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", counted)
    async with LoadClient(worker) as client:
        for body in (PLAIN, STREAM, PLAIN):
            await client.ask(body)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("raw", "close", "complaint"),
    [
        (response(503, b"no worker"), False, "answered 503: no worker"),
        (response(200, b'{"error": {"message": "full"}}'), False, "full"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", True, "broke off"),
        (b"220 mail.example.com ESMTP\r\n\r\n", False, "no HTTP response"),
    ],
)
async def test_an_answer_that_is_none_ends_the_benchmark(answering, raw, close, complaint):
    url = await answering(raw, close)
    async with LoadClient(url) as client:
        with pytest.raises(LoadError, match=complaint) as caught:
            await client.ask(PLAIN)
    assert url in str(caught.value)


async def test_a_server_that_is_not_there_is_named(free_port):
    url = f"http://127.0.0.1:{free_port()}"
    async with LoadClient(url) as client:
        with pytest.raises(LoadError, match=f"{url} cannot be reached"):
            await client.ask(PLAIN)


async def test_open_loop_does_not_wait_for_answers(paced):
    async with LoadClient(await paced(Pace(2, 0.5))) as client:
        timings = await open_loop(client, itertools.repeat(STREAM), rate=100, seconds=0.4, seed=1)
    # One by one, no more than one could have been answered in that time.
    assert 20 <= len(timings) <= 70


async def test_open_loop_sends_the_same_for_the_same_seed(worker):
    async with LoadClient(worker) as client:
        counts = [
            len(await open_loop(client, itertools.repeat(PLAIN), rate=200, seconds=0.2, seed=seed))
            for seed in (3, 3, 3)
        ]
    assert len(set(counts)) == 1


async def test_closed_loop_counts_answers(worker):
    bodies = itertools.count()
    async with LoadClient(worker) as client:
        rate = await closed_loop(client, (PLAIN for _ in bodies), at_once=4, seconds=0.2)
    assert rate * 0.2 <= next(bodies) <= rate * 0.4


def test_milliseconds_are_named_by_what_was_timed():
    timings = [RequestTiming(first=n / 1e3, last=2 * n / 1e3) for n in range(1, 101)]
    figures = milliseconds(timings)
    assert figures["first_p50_ms"] == pytest.approx(50)
    assert figures["last_p99_ms"] == pytest.approx(198)
