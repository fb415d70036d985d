"""TLS at the router's front and towards instances, against those who break its rules."""

import asyncio
import contextlib
import json
import logging
import ssl
from urllib.parse import urlsplit

import pytest
from certificates import Authority

from router.http import tls as front
from router.http.reload import Reloads

BODY = {"text": "a"}
HELLO = bytes.fromhex("16030100f8010000f40303") + bytes(64)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ours")


@pytest.fixture
def foreign(tmp_path):
    return Authority(tmp_path, "foreign")


@pytest.fixture
def secured(authority):
    """The settings of a router that serves https."""
    cert, key = authority.files("router")
    return {"tls_cert_path": cert, "tls_key_path": key}


async def ask(cluster, authority, method="POST", path="/generate", **kwargs):
    kwargs = {"json": BODY} if method == "POST" and not kwargs else kwargs
    async with cluster.session.request(
        method, cluster.url + path, ssl=authority.client(), **kwargs
    ) as response:
        return response.status, await response.read()


async def workers(cluster, authority):
    return json.loads((await ask(cluster, authority, "GET", "/workers"))[1])["workers"]


def connect(cluster, **how):
    where = urlsplit(cluster.url)
    return asyncio.open_connection(where.hostname, where.port, **how)


async def test_everything_goes_over_tls_on_both_sides(start, authority, secured):
    cert, key = authority.files("router-as-client", "router")
    cluster = await start(
        prefill=1,
        decode=1,
        colocated=1,
        tls=authority.server(clients=authority),
        ca_cert_paths=(authority.trust,),
        client_cert_path=cert,
        client_key_path=key,
        worker_api_key="worker-key",
        api_key="k",
        **secured,
    )
    right = {"headers": {"Authorization": "Bearer k"}}
    for _ in range(2):
        assert (await ask(cluster, authority, json=BODY, **right))[0] == 200
    streamed = await ask(cluster, authority, json=BODY | {"stream": True, "rid": "r"}, **right)
    assert streamed[1].endswith(b"[DONE]\n\n")
    for method, path in (
        ("GET", "/health_generate"),
        ("GET", "/server_info"),
        ("POST", "/flush_cache"),
        ("POST", "/abort_request"),
    ):
        extra = {"json": {"rid": "x"}} if method == "POST" else {}
        assert (await ask(cluster, authority, method, path, **extra, **right))[0] == 200
    for mock in (*cluster.prefill, *cluster.decode, *cluster.colocated):
        assert mock.seen
        assert mock.presented
        assert mock.aborts


async def test_a_client_that_leaves_over_tls_aborts_its_request(start, authority, secured):
    cluster = await start(colocated=1, tls=authority.server(), ca_cert_paths=(authority.trust,), **secured)
    mock = cluster.colocated[0]
    mock.hold_after = 1
    async with cluster.session.post(
        cluster.url + "/generate", json=BODY | {"rid": "r", "stream": True}, ssl=authority.client()
    ) as response:
        await response.content.readany()
    await mock.aborted.wait()
    while not mock.aborts:
        await asyncio.sleep(0.01)
    assert mock.aborts[0][0] == {"rid": "r"}


@pytest.mark.parametrize(
    ("served", "trusted", "said"),
    [
        ({"of": "foreign"}, True, "its certificate is refused: "),
        ({"of": "ours", "expired": True}, True, "expired"),
        ({"of": "ours", "identities": ["elsewhere.example"]}, True, "IP address mismatch"),
        # It says so once the handshake is done, in whatever words.
        ({"of": "ours", "clients": True}, True, ""),
        ({"of": "ours"}, False, "its certificate is refused: "),
    ],
    ids=["another authority", "expired", "another name", "asks for a certificate", "the system's CAs"],
)
async def test_an_instance_that_cannot_prove_itself_gets_nothing(
    start, authority, foreign, served, trusted, said
):
    signer = authority if served["of"] == "ours" else foreign
    tls = signer.server(
        *served.get("identities", ()),
        clients=authority if served.get("clients") else None,
        expired=served.get("expired", False),
    )
    cluster = await start(
        colocated=1,
        tls=tls,
        ca_cert_paths=(authority.trust,) if trusted else (),
        worker_api_key="worker-key",
        api_key="k",
    )
    mock, right = cluster.colocated[0], {"Authorization": "Bearer k"}
    async with cluster.session.get(cluster.url + "/workers", headers=right) as response:
        (worker,) = (await response.json())["workers"]
    assert not worker["healthy"]
    assert said in worker["trouble"]
    async with cluster.session.post(cluster.url + "/generate", json=BODY, headers=right) as response:
        assert response.status == 503
    assert (mock.seen, mock.presented) == ([], [])


async def test_no_plain_instance_passes_for_one_with_tls(start, authority):
    cluster = await start(colocated=1, ca_cert_paths=(authority.trust,))
    plain = cluster.colocated[0].url.replace("http:", "https:")
    async with cluster.session.post(cluster.url + "/workers", json={"url": plain}) as response:
        worker = (await response.json())["worker"]
    assert not worker["healthy"]
    assert "TLS fails there" in worker["trouble"]


@pytest.mark.parametrize(
    "sent", [b"GET /health HTTP/1.1\r\nHost: r\r\n\r\n", bytes(range(256)) * 64, HELLO + bytes(300), b"\x16"]
)
async def test_what_is_no_handshake_is_cut_off_without_a_line(
    start, authority, secured, caplog, monkeypatch, sent
):
    monkeypatch.setattr(front, "HANDSHAKE_SECS", 0.3)
    cluster = await start(colocated=1, **secured)
    caplog.clear()
    for _ in range(5):
        reader, writer = await connect(cluster)
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            assert b"HTTP/1.1 200" not in await reader.read()
        writer.close()
    assert (await ask(cluster, authority))[0] == 200
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_stalled_handshakes_hold_nothing_for_long_and_nobody_up(start, authority, secured, monkeypatch):
    monkeypatch.setattr(front, "HANDSHAKE_SECS", 0.5)
    cluster = await start(colocated=1, **secured)
    stalled = [await connect(cluster) for _ in range(50)]
    for _, writer in stalled[::2]:
        writer.write(HELLO)
    assert (await ask(cluster, authority))[0] == 200
    # They are cut off by themselves.
    await asyncio.gather(*(reader.read() for reader, _ in stalled), return_exceptions=True)
    for _, writer in stalled:
        writer.close()


async def test_of_many_handshakes_the_oldest_give_way(start, authority, secured, monkeypatch):
    monkeypatch.setattr(front, "MAX_HANDSHAKES", 8)
    monkeypatch.setattr(front, "HANDSHAKE_SECS", 1000.0)
    cluster = await start(colocated=1, **secured)
    stalled = [await connect(cluster) for _ in range(40)]
    await asyncio.gather(*(reader.read() for reader, _ in stalled[:32]), return_exceptions=True)
    assert (await ask(cluster, authority))[0] == 200
    assert (await ask(cluster, authority, "GET", "/liveness"))[0] == 200
    for _, writer in stalled:
        writer.close()


async def test_old_versions_of_tls_are_refused(start, authority, secured):
    cluster = await start(colocated=1, **secured)
    context = authority.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(cluster, ssl=context)
    context = authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await connect(cluster, ssl=context)
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
    writer.close()


async def test_a_new_certificate_is_read_and_a_broken_one_is_not(
    start, authority, foreign, secured, tmp_path, caplog
):
    reloads = Reloads()
    cluster = await start(colocated=1, reloads=reloads, **secured)
    assert (await ask(cluster, authority, "GET", "/liveness"))[0] == 200
    files = [secured["tls_cert_path"], secured["tls_key_path"]]
    new = foreign.files("router")
    for file, source in zip(files, new, strict=True):
        (tmp_path / "ours" / file).write_bytes((tmp_path / "foreign" / source).read_bytes())
    reloads.run()
    # Another session: the first one still has its connection.
    _, writer = await connect(cluster, ssl=foreign.client())
    writer.close()
    (tmp_path / "ours" / files[0]).write_text("nothing")
    reloads.run()
    assert "stays as it was" in caplog.text
    _, writer = await connect(cluster, ssl=foreign.client())
    writer.close()


async def test_headers_and_bodies_are_bounded_over_tls_too(start, authority, secured):
    cluster = await start(colocated=1, max_payload_size=1000, **secured)
    assert (await ask(cluster, authority, data=2000 * b"x"))[0] == 413
    reader, writer = await connect(cluster, ssl=authority.client())
    writer.write(b"GET / HTTP/1.1\r\n" + b"X-A: " + 70_000 * b"v")
    assert b" 431 " in await reader.read()
    writer.close()
