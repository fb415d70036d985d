"""Floods of connections: half-open, silent, slow, and more of them than there are file descriptors."""

import asyncio
import contextlib
import json
import resource
import socket
from urllib.parse import urlsplit

import pytest
from raw_http import exchange, request
from router_process import metric, post, process
from waiting import eventually

__all__ = ["process"]

HALF_OPEN = [
    b"",
    b"G",
    b"POST /generate HTTP/1.1\r\nHost: r\r\nX-",
    b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: 100\r\n\r\n{",
]


@pytest.fixture
def flood():
    """`await flood(cluster, count, sent)`: so many connections that send this and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    sockets = []

    async def open_them(cluster, count, sent, source=None):
        where = urlsplit(cluster.url)
        loop, opened = asyncio.get_running_loop(), []
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            sockets.append(client)
            if source is not None:
                client.bind((source, 0))
            with contextlib.suppress(ConnectionError):
                await loop.sock_connect(client, (where.hostname, where.port))
                await loop.sock_sendall(client, sent)
                opened.append(client)
        return opened

    yield open_them
    for client in sockets:
        client.close()


def is_closed(client):
    try:
        return not client.recv(1 << 16) or is_closed(client)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", HALF_OPEN, ids=lambda sent: repr(sent[-12:]))
async def test_a_thousand_half_open_requests_are_closed_soon(start, flood, sent):
    cluster = await start(colocated=1, client_header_timeout_secs=0.4, client_body_timeout_secs=0.4)
    opened = await flood(cluster, 1000, sent)
    assert (await post(cluster))[0] == 200
    await eventually(lambda: all(map(is_closed, opened)))
    # That of the session alone.
    assert await metric(cluster, "connections") <= 2
    reason = "body_timeout" if sent.endswith(b"{") else "header_timeout"
    assert await metric(cluster, f'refused_total{{reason="{reason}"}}') == 1000


async def test_headers_that_trickle_in_are_cut_off(start):
    cluster = await start(colocated=1, client_header_timeout_secs=0.3)
    where = urlsplit(cluster.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    # A whole request first: what comes behind it has its own deadline.
    writer.write(request("GET", "/liveness") + b"GET /health HTTP/1.1\r\nX: ")
    got = b""
    with contextlib.suppress(ConnectionError):
        while not reader.at_eof():
            writer.write(b"a")
            await asyncio.sleep(0.02)
            with contextlib.suppress(TimeoutError):
                got += await asyncio.wait_for(reader.read(1 << 16), 0.001)
    writer.close()
    assert got.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("piece", [b"a", b"1\r\na\r\n"], ids=["length", "chunked"])
async def test_a_body_that_trickles_in_gets_408(start, piece):
    cluster = await start(colocated=1, client_body_timeout_secs=0.3)
    where = urlsplit(cluster.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    size = b"Content-Length: 100000" if piece == b"a" else b"Transfer-Encoding: chunked"
    writer.write(b"POST /generate HTTP/1.1\r\nHost: r\r\n%s\r\n\r\n" % size)
    head = asyncio.create_task(reader.readline())
    while not head.done():
        writer.write(piece)
        await asyncio.sleep(0.05)
    assert b" 408 " in await head
    writer.close()
    assert cluster.colocated[0].seen == []


async def test_a_body_that_goes_on_is_waited_for(start):
    cluster = await start(colocated=1, client_body_timeout_secs=0.5)
    where = urlsplit(cluster.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    text = b'{"text": "%s"}' % (20_000 * b"a")
    writer.write(b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % len(text))
    for start_at in range(0, len(text), 2000):
        writer.write(text[start_at : start_at + 2000])
        await asyncio.sleep(0.1)
    assert b" 200 " in await reader.readline()
    writer.close()


async def test_an_idle_connection_is_kept_and_then_closed(start):
    cluster = await start(colocated=1, client_header_timeout_secs=0.2, keepalive_timeout_secs=1.0)
    where = urlsplit(cluster.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    for _ in range(2):
        writer.write(request("GET", "/liveness"))
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")
        # Longer than headers may take.
        await asyncio.sleep(0.5)
    assert await reader.read() == b""
    writer.close()


async def test_newcomers_take_the_place_of_those_that_wait(start, flood):
    cluster = await start(colocated=1, max_connections=20, max_connections_per_address=20)
    for sent in HALF_OPEN:
        await flood(cluster, 100, sent)
        for _ in range(5):
            assert (await exchange(cluster, request("POST", "/generate", b'{"text": "a"}')))[0] == 200
    assert await metric(cluster, "connections") <= 21
    assert await metric(cluster, 'refused_total{reason="connection_gave_way"}') > 300


async def test_where_all_are_busy_newcomers_get_503_and_what_runs_is_not_hurt(start):
    cluster = await start(colocated=1, max_connections=8, max_connections_per_address=100)
    mock = cluster.colocated[0]
    mock.hold = True
    running = [asyncio.create_task(post(cluster)) for _ in range(8)]
    await eventually(lambda: len(mock.seen) == 8)
    for _ in range(40):
        status, headers, body = await exchange(cluster, request("GET", "/liveness"))
        assert (status, json.loads(body)["error"]["code"]) == (503, 503)
        assert headers["retry-after"] == "1"
    mock.release.set()
    assert [(await each)[0] for each in running] == [200] * 8
    assert (await post(cluster))[0] == 200


async def test_one_address_does_not_take_all(start, flood):
    cluster = await start(colocated=1, max_connections=20, max_connections_per_address=8)
    mock = cluster.colocated[0]
    mock.hold = True
    busy = await flood(cluster, 30, request("POST", "/generate", b'{"text": "a"}'), source="127.0.0.9")
    await eventually(lambda: len(mock.seen) == 8)
    mock.hold = False
    assert (await post(cluster))[0] == 200
    reasons = [client.recv(1 << 16) for client in busy[-5:]]
    assert all(b"connections_of_address" in reason for reason in reasons)
    mock.release.set()


@pytest.mark.parametrize("sent", HALF_OPEN, ids=lambda sent: repr(sent[-12:]))
async def test_400_connections_at_256_descriptors_starve_nobody(process, flood, sent):
    cluster = await process(256)
    for _ in range(2):
        await flood(cluster, 400, sent)
        for _ in range(20):
            assert (await post(cluster))[0] == 200
        # And one that has no connection yet.
        assert (await exchange(cluster, request("POST", "/generate", b'{"text": "a"}')))[0] == 200
    async with cluster.session.get(cluster.url + "/workers") as response:
        assert [worker["healthy"] for worker in (await response.json())["workers"]] == [True]
    cluster.router.terminate()
    assert b"Too many open files" not in await cluster.log


async def test_a_router_without_descriptors_blames_no_instance(process, flood):
    """More connections are allowed than there are descriptors for."""
    cluster = await process(100, "--max-connections", "1000", "--max-connections-per-address", "1000")
    assert (await post(cluster))[0] == 200
    cluster.mock.hold = True
    opened = await flood(cluster, 200, request("POST", "/generate", b'{"text": "a"}'))
    answers = []
    await eventually(lambda: answers.extend(filter(None, map(read, opened))) or answers)
    assert all(b" 503 " in answer and b"file_descriptors" in answer for answer in answers)
    for client in opened:
        client.close()
    cluster.mock.release.set()
    cluster.mock.hold = False
    while (await exchange(cluster, request("GET", "/liveness")))[0] != 200:
        await asyncio.sleep(0.05)
    for path in ("/readiness", "/workers"):
        async with cluster.session.get(cluster.url + path) as response:
            assert response.status == 200
            assert b'"healthy":false' not in await response.read()
    assert (await post(cluster))[0] == 200
    cluster.router.terminate()
    log = await cluster.log
    assert log.count(b"\n") < 100
    assert b"Traceback" not in log


def read(client):
    try:
        return client.recv(1 << 16)
    except (BlockingIOError, ConnectionError):
        return b""
