"""Compressed bodies: unpacked only where they are read, and never further than --max-payload-size."""

import asyncio
import gzip
import json
import tracemalloc
import zlib

import pytest
import zstandard
from raw_http import assert_refused, exchange, request

BODY = json.dumps({"text": "a" * 1000}).encode()
LIMIT = 100_000
BOMB = bytes(48 << 20)


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": gzip.compress,
    "GZip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "identity": bytes,
}


@pytest.mark.parametrize("encoding", PACKED)
async def test_a_packed_body_reaches_an_instance_unpacked(start, encoding):
    cluster = await start(colocated=1)
    sent = request("POST", "/generate", PACKED[encoding](BODY), Content_Encoding=encoding)
    assert (await exchange(cluster, sent))[0] == 200
    assert cluster.colocated[0].bodies == [json.loads(BODY)]
    assert "Content-Encoding" not in cluster.colocated[0].seen[0][2]


async def test_members_of_gzip_one_after_the_other_are_a_body(start):
    cluster = await start(colocated=1)
    packed = gzip.compress(BODY[:500]) + gzip.compress(b"") + gzip.compress(BODY[500:])
    assert (await exchange(cluster, request("POST", "/generate", packed, Content_Encoding="gzip")))[0] == 200
    assert cluster.colocated[0].bodies == [json.loads(BODY)]


@pytest.mark.parametrize(
    "path", ["/generate", "/tokenize", "/v1/embeddings", "/workers", "/explain", "/abort_request"]
)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "Deflate"])
async def test_a_body_that_unpacks_to_too_much_is_refused(start, encoding, path):
    cluster = await start(colocated=1, max_payload_size=LIMIT)
    packed = PACKED[encoding](BOMB)
    tracemalloc.start()
    answer = await exchange(cluster, request("POST", path, packed, Content_Encoding=encoding))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_refused(answer, 413)
    assert peak < 16 << 20
    assert cluster.colocated[0].seen == []


@pytest.mark.parametrize(
    "packed",
    [
        500 * gzip.compress(b"a" * 1000),
        10_000 * gzip.compress(b""),
        b"\x1f\x8b\x08\x08" + bytes(6) + LIMIT * 2 * b"n",
    ],
    ids=["members", "empty members", "endless name"],
)
async def test_gzip_that_unpacks_to_little_is_bounded_too(start, packed):
    cluster = await start(colocated=1, max_payload_size=LIMIT)
    assert_refused(await exchange(cluster, request("POST", "/generate", packed, Content_Encoding="gzip")))
    assert cluster.colocated[0].seen == []


@pytest.mark.parametrize(
    ("encoding", "packed", "status"),
    [
        ("gzip", BODY, 400),
        ("gzip", gzip.compress(BODY)[:-20] + bytes(12), 400),
        ("gzip", gzip.compress(BODY) + b"garbage", 400),
        ("deflate", BODY, 400),
        ("deflate", b"\x78" + BODY, 400),
        ("br", BODY, 415),
        ("zstd", zstandard.compress(BODY), 415),
        ("compress", BODY, 415),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415),
        ("gzip;q=1", gzip.compress(BODY), 415),
        ("utf-8", BODY, 415),
        (b"\xff\xfe", BODY, 415),
        ("*", BODY, 415),
        (4000 * "gzip,", BODY, 415),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/explain", "/workers"])
async def test_a_wrong_encoding_is_refused(start, caplog, encoding, packed, status, path):
    cluster = await start(colocated=1)
    assert_refused(await exchange(cluster, request("POST", path, packed, Content_Encoding=encoding)), status)
    assert cluster.colocated[0].seen == []
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/workers", 401),
        ("POST", "/workers", 401),
        ("POST", "/generate", 401),
        ("POST", "/no/such", 401),
    ],
)
async def test_without_a_key_nothing_is_unpacked(start, monkeypatch, method, path, status):
    unpacked = []
    monkeypatch.setattr(
        "aiohttp.compression_utils.ZLibDecompressor.decompress_sync", lambda *_, **__: unpacked.append(1)
    )
    cluster = await start(colocated=1, api_key="k")
    sent = request(method, path, gzip.compress(BOMB), Content_Encoding="gzip")
    assert (await exchange(cluster, sent))[0] == status
    assert unpacked == []


async def test_others_are_served_while_a_body_is_unpacked(start):
    cluster = await start(colocated=1)
    packed = gzip.compress(b'{"text": "' + bytes(48 << 20) + b'"}')
    unpacking = asyncio.create_task(
        exchange(cluster, request("POST", "/explain", packed, Content_Encoding="gzip"))
    )
    served = 0
    while not unpacking.done():
        assert (await exchange(cluster, request("GET", "/liveness")))[0] == 200
        served += 1
    assert served > 3
    assert_refused(await unpacking, 400)
