"""Requests that no honest client sends: fuzzed, nested, cut off, oversized, compressed well and badly."""

import bz2
import gzip
import random
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson
import zstandard

from benchmark.attack.messages import mutated
from router.http.endpoint import VARIABLE
from router.http.endpoints import ENDPOINTS

_BODIES = tuple(
    orjson.dumps(body)
    for body in (
        {"text": "a", "sampling_params": {"max_new_tokens": 3}, "rid": "r", "extra_key": "k", "stream": True},
        {"input_ids": [1, 2, 3], "cache_salt": "s", "return_logprob": True},
        {"text": ["a", "b"], "lora_path": ["x", None]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "model": "m", "n": 2},
        {"prompt": "a", "model": "m:adapter", "logprobs": 3, "user": "u"},
        {"rid": "r", "abort_all": False},
        {"url": "ftp://127.0.0.1:1", "worker_type": "prefill"},
        {"input": "a", "tokens": [1], "query": "q", "documents": ["d"]},
    )
)
_VALUES = (
    b"null", b"true", b"-1", b"1e400", b"NaN", b"1180591620717411303424", b'""', b'"\\ud83d"', b'"\\u0000"',
    b"[]", b"{}", b"[[[]]]", b'[1,"a",null]', b'"' + b"x" * 5000 + b'"', b"[" * 900 + b"]" * 900,
    b"[" * 9000 + b"]" * 9000,
)  # fmt: skip
_HEADERS = (
    b"X-Request-Id: \xff\xfe", b"Authorization: Bearer", b"Cookie: " + b"a=b; " * 400, b"Expect: 200-ok",
    b"Range: bytes=0-", b"Content-Type: text/plain; charset=\xff", b"Content-Length: 5",
    b"X-A: " + b"y" * 70_000, b"Accept-Encoding: br;q=x", b"X-Override-Bootstrap-Host: x",
    b"Transfer-Encoding: gzip, chunked", b": x", b"\x00: x",
)  # fmt: skip
_PATHS = (
    b"/v1/models/../../server_info", b"/v1/models/%2e%2e/%2e%2e/flush_cache", b"/workers/%ff",
    b"/workers/" + b"x" * 9000, b"//generate", b"/generate?" + b"a=b&" * 3000, b"/\xff", b"*", b"http://127.0.0.1:1/generate",
    b"/decisions?last=-1", b"/v1/loads?format=%ff", b"/v1/responses/..", b"/add_worker?url=http://[::1",
)  # fmt: skip
_SERVED = tuple(
    (method.encode(), VARIABLE.sub("x", endpoint.path).encode())
    for endpoint in ENDPOINTS
    for method in endpoint.methods
)
_ENDLESS_CHUNK = b"fffffffffffffffff\r\n"
Packer = Callable[[bytes], bytes]
# Of every coding that HTTP names. `br` and `compress` have no packer here: noise comes under their names.
_CODINGS: dict[bytes, Packer] = {
    b"gzip": lambda body: gzip.compress(body, 1),
    b"x-gzip": lambda body: gzip.compress(body, 1),
    b"deflate": lambda body: zlib.compress(body, 1),
    b"zstd": lambda body: zstandard.compress(body, 1),
    b"br": lambda body: b"\x8b" + body,
    b"compress": lambda body: b"\x1f\x9d\x90" + body,
    b"bzip2": lambda body: bz2.compress(body, 1),
    b"identity": lambda body: body,
}


class HttpInput(NamedTuple):
    """`cut`: it ends before it is whole, so no answer is waited for."""

    sent: bytes
    cut: bool


def http_input(rng: random.Random) -> HttpInput:
    method, path = rng.choice(_SERVED)
    if rng.random() < 0.1:
        path = rng.choice(_PATHS)
    if rng.random() < 0.03:
        method = rng.choice((b"HEAD", b"OPTIONS", b"TRACE", b"PATCH", b"CONNECT", b"x" * 300))
    body = rng.choice(_WAYS)(rng, rng.choice(_BODIES)) if method not in (b"GET", b"HEAD") else b""
    headers = [b"Host: r", b"Connection: close"]
    if rng.random() < 0.3:
        body = _packed(rng, body, headers)
    if rng.random() < 0.2:
        headers.append(rng.choice(_HEADERS))
    if rng.random() < 0.1:
        headers.append(b"Transfer-Encoding: chunked")
        body = _chunked(rng, body)
    else:
        headers.append(b"Content-Length: %d" % len(body))
    sent = b"\r\n".join([b"%s %s HTTP/1.1" % (method, path), *headers, b"", body])
    cut = rng.random() < 0.05
    if cut:
        sent = sent[: rng.randrange(len(sent))]
    return HttpInput(sent, cut or sent.endswith(_ENDLESS_CHUNK))


def _packed(rng: random.Random, body: bytes, headers: list[bytes]) -> bytes:
    names: Sequence[bytes] = rng.choices(list(_CODINGS), k=rng.choice((1, 1, 1, 2, 3)))
    for name in names:
        body = _CODINGS[name](body)
    headers.append(b"Content-Encoding: " + b", ".join(names))
    match rng.randrange(6):
        case 0:
            return body[: rng.randrange(len(body) + 1)]
        case 1:
            return body[: len(body) // 2] + rng.randbytes(3) + body[len(body) // 2 :]
        case 2:
            # The name says what it is not.
            headers[-1] = b"Content-Encoding: " + rng.choice(list(_CODINGS))
    return body


def _chunked(rng: random.Random, body: bytes) -> bytes:
    cut = rng.randrange(len(body) + 1)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
    return chunks + rng.choice(
        (b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"-1\r\n\r\n", _ENDLESS_CHUNK)
    )


def _field(rng: random.Random, body: bytes) -> bytes:
    name = rng.choice(
        (b"text", b"prompt", b"messages", b"extra_key", b"rid", b"n", b"stream", b"model", b"input_ids")
    )
    return body[:-1] + b',"%s":%s}' % (name, rng.choice(_VALUES))


def _large(rng: random.Random, body: bytes) -> bytes:
    return body[:-1] + b',"text":"%s"}' % (b"ab" * rng.choice((1000, 50_000, 1_000_000)))


def _truncated(rng: random.Random, body: bytes) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _as_it_is(_: random.Random, body: bytes) -> bytes:
    return body


def _bomb(rng: random.Random, body: bytes) -> bytes:
    """Little when it is packed."""
    return body[:-1] + b',"z":"' + bytes(rng.choice((1 << 16, 1 << 20, 4 << 20))) + b'"}'


_WAYS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_field, _field, mutated, mutated, _truncated, _truncated, _as_it_is, _as_it_is) * 8,
    _large,
    _bomb,
)
