"""Request lines and headers: as large as SGLang takes them, and a JSON error for what is no HTTP."""

import asyncio
import logging
from urllib.parse import urlsplit

import pytest
from raw_http import assert_refused, exchange, request

BODY = b'{"text": "a"}'
NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    b"hello\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /health HTTP/9.9\r\n\r\n",
    b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /health HTTP/1.1\r\n: no name\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: r\r\nX: \x00\r\n\r\n",
    b"GET /h\xffealth HTTP/1.1\r\nHost: r\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: r\r\n\r\n",
    b"GET evil HTTP/1.1\r\nHost: r\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: x\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: -1\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
    b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"POST /generate HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
    request("POST", "/generate", BODY, Expect="nonsense"),
    request("POST", "/generate", BODY, Expect=b"\xff\xfe"),
    request("GET", "/nowhere", Expect=b"\xed\xa0\x80"),
    request("GET", "/" + 70_000 * "x"),
    request("GET", "/health", X_Long=70_000 * "x"),
]


@pytest.mark.parametrize("sent", NO_HTTP, ids=lambda sent: repr(sent[:60]))
async def test_what_is_no_http_gets_a_json_error_and_no_line(start, caplog, sent):
    cluster = await start(colocated=1)
    caplog.clear()
    assert_refused(await exchange(cluster, sent))
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert (await exchange(cluster, request("GET", "/health")))[0] == 200
    assert cluster.colocated[0].seen == []


@pytest.mark.parametrize(("count", "size"), [(1, 20_000), (1, 60_000), (150, 10), (2000, 10), (30, 2000)])
async def test_headers_are_taken_as_sglang_takes_them(start, count, size):
    cluster = await start(prefill=1, decode=1, api_key="k")
    extra = {f"X-{number}": size * "v" for number in range(count)}
    got = await exchange(cluster, request("POST", "/generate", BODY, Authorization="Bearer k", **extra))
    assert got[0] == 200


@pytest.mark.parametrize("piece", [b"X-A: " + 60_000 * b"v" + b"\r\n", 100 * b"a:\r\n", b"v"])
async def test_headers_without_an_end_are_cut_off(start, piece):
    cluster = await start(colocated=1)
    where = urlsplit(cluster.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    # A whole request first: what comes behind it is counted as well.
    writer.write(request("GET", "/liveness") + b"GET /health HTTP/1.1\r\n")
    sent = 0
    try:
        while sent < 4 << 20:
            part = piece * max(1, 8192 // len(piece))
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
            sent += len(part)
    except ConnectionError:
        pass
    try:
        answers = await reader.read()
        assert b" 431 " in answers
    except ConnectionError:
        pass
    writer.close()
    assert sent < 4 << 20


async def test_a_large_body_counts_as_no_header(start):
    cluster = await start(colocated=1)
    body = b'{"text": "%s"}' % (300_000 * b"a")
    assert (await exchange(cluster, request("POST", "/generate", body)))[0] == 200
