"""Throws hostile inputs at one socket, from a process of its own."""

import contextlib
import random
import socket
from collections import Counter

import zmq

from benchmark.attack.http_requests import http_input
from benchmark.attack.messages import SEEDS, frames, spoilt
from mempool.transports.stream.framing import PREFIX

_TIMEOUT_S = 20.0
_INPUTS_A_CONNECTION = 50
_LARGEST_PAYLOAD = 1 << 12
KINDS = (*SEEDS, "router")


def throw(kind: str, endpoint: str, inputs: int, seed: int) -> Counter[str]:
    """How many inputs were sent, as `inputs`; and by status what a router answered.

    The same `seed` throws the same.
    """
    rng = random.Random(seed)
    if kind == "router":
        return _at_router(rng, endpoint, inputs)
    if kind == "data":
        return _at_stream(rng, endpoint, inputs)
    return _at_zeromq(rng, kind, endpoint, inputs)


def _at_zeromq(rng: random.Random, kind: str, endpoint: str, inputs: int) -> Counter[str]:
    counted: Counter[str] = Counter()
    with zmq.Context() as context:
        while counted["inputs"] < inputs:
            made = context.socket(zmq.PUSH if kind == "split" else zmq.DEALER)
            made.setsockopt(zmq.LINGER, 2000)
            made.setsockopt(zmq.SNDTIMEO, int(_TIMEOUT_S * 1000))
            made.connect(endpoint)
            # A frame that is too long costs the connection, and whatever is under way on it.
            for _ in range(min(_INPUTS_A_CONNECTION, inputs - counted["inputs"])):
                made.send_multipart(frames(rng, kind))
                counted["inputs"] += 1
            made.close()
    return counted


def _at_stream(rng: random.Random, endpoint: str, inputs: int) -> Counter[str]:
    hello, seeds = SEEDS["data"][0], SEEDS["data"]
    where = _address(endpoint)
    for _ in range(inputs):
        message = b"".join(_prefixed(rng, spoilt(rng, rng.choice(seeds))) for _ in range(rng.randint(1, 3)))
        greeting = _prefix(hello) + hello if rng.random() < 0.7 else b""
        with contextlib.suppress(OSError), socket.create_connection(where, _TIMEOUT_S) as stream:
            stream.sendall(greeting + message)
            stream.shutdown(socket.SHUT_WR)
            while stream.recv(1 << 16):
                pass
    return Counter(inputs=inputs)


def _prefixed(rng: random.Random, header: bytes) -> bytes:
    payload = rng.randbytes(16) * rng.randrange(_LARGEST_PAYLOAD // 16)
    if rng.random() < 0.1:
        return PREFIX.pack(rng.getrandbits(32), rng.getrandbits(32)) + header + payload
    return PREFIX.pack(len(header), len(payload)) + header + payload


def _prefix(header: bytes) -> bytes:
    return PREFIX.pack(len(header), 0)


def _at_router(rng: random.Random, endpoint: str, inputs: int) -> Counter[str]:
    counted: Counter[str] = Counter(inputs=inputs)
    where = _address(endpoint)
    for _ in range(inputs):
        sent, cut = http_input(rng)
        try:
            with socket.create_connection(where, _TIMEOUT_S) as stream:
                stream.sendall(sent)
                if not cut:
                    counted[f"answered {_status(stream)}"] += 1
        except TimeoutError:
            counted["unanswered"] += 1
        except OSError:
            counted["broken off"] += 1
    return counted


def _status(stream: socket.socket) -> str:
    """Reads to the end of the answer."""
    answer = stream.recv(1 << 16)
    while stream.recv(1 << 16):
        pass
    return answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.") else "nothing"


def _address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.partition("://")[2].rpartition(":")
    return host, int(port)
