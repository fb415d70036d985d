"""Messages of the wire that are almost right: one of each kind, and ways to spoil it."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from mempool import wire
from mempool.address import Medium
from mempool.feed.messages import FeedRequest
from mempool.layout import BlockLayout
from mempool.membership.messages import Heartbeat, InstanceInfo, Join, Leave
from mempool.remote.messages import AllocMem, Call, Caller, FetchEnded, FetchRequest, FreeMem, Offer
from sglang_memserve.transfer.control import TAG, Destination, Registration

LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=4, layers=2, heads=1, k_plane_bytes=512, v_plane_bytes=512
)
_INFO = InstanceInfo(
    instance="stranger", incarnation=7, role="x", layout=LAYOUT, namespace={},
    control="tcp://127.0.0.1:9", data="stream://127.0.0.1:9",
)  # fmt: skip
_STRANGER = Caller("stranger", 7)
_TOKENS = bytes(range(64))
_ENDPOINT = "stream://127.0.0.1:9"
_encode = msgspec.msgpack.Encoder().encode

SEEDS: Mapping[str, Sequence[bytes]] = {
    name: [_encode(message) for message in messages]
    for name, messages in {
        "registry": (Join(_INFO, bytes(16)), Heartbeat("stranger", 7), Leave("stranger", 7)),
        "feed": (FeedRequest(1, Medium.DRAM, 0, -1, 0.0), FeedRequest(2, Medium.HBM, 7, 3, 0.1)),
        "control": tuple(
            Call(1, _STRANGER, 1.0, request)
            for request in (
                AllocMem(Medium.DRAM, 0),
                FreeMem(Medium.DRAM, 7, bytes(4)),
                Offer(layout=LAYOUT, medium=Medium.DRAM, count=1, tokens=_TOKENS),
                FetchRequest(_TOKENS, "", b"c" * 16),
                FetchEnded(b"c" * 16),
            )
        ),
        "data": (
            wire.ChannelHello(wire.VERSION),
            wire.Begin(1, 0),
            wire.Blocks(1, 1, 0, 1, 0, 4),
            wire.Finish(1, 2, 1),
            wire.Fail(1, 2, "x"),
        ),
        "split": (
            Registration(_ENDPOINT, LAYOUT),
            Destination(1, _ENDPOINT, LAYOUT, 1, 0, 1, False),
        ),
    }.items()
}
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 5, 2**63, 2**64 - 1, -(2**63), math.nan, math.inf, 1e300, "", "x" * 300, "\0",
    "\u202e", b"", b"\xff" * 64, [], [[]], {}, msgspec.msgpack.Ext(5, b"x"), "tcp://a..b:1", "stream://[::1",
    "http://x:1",
)  # fmt: skip
ENDLESS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
)


def spoilt(rng: random.Random, seed: bytes) -> bytes:
    """The message as it is, or with a fault."""
    return rng.choice(_WAYS)(rng, seed)


def frames(rng: random.Random, socket: str) -> list[bytes]:
    """What one ZeroMQ message to this socket has."""
    frame = spoilt(rng, rng.choice(SEEDS[socket]))
    if rng.random() < 0.05:
        return [frame] * rng.choice((0, 2, 3, 500)) or [b""]
    if socket == "split" and rng.random() < 0.95:
        return [TAG, frame]
    return [frame]


def mutated(rng: random.Random, seed: bytes) -> bytes:
    """With a few bytes changed, put in or left out."""
    made = bytearray(seed)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(made) + 1)
        made[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
    return bytes(made)


def _truncated(rng: random.Random, seed: bytes) -> bytes:
    return seed[: rng.randrange(len(seed) + 1)]


def _nested(rng: random.Random, seed: bytes) -> bytes:
    opened = rng.choice((b"\x91", b"\x81\xa1k", b"\xdc\x00\x01")) * rng.choice((100, 1200, 20_000)) + b"\xc0"
    if not 0x80 <= seed[0] < 0x8F:
        return opened
    return bytes([seed[0] + 1]) + seed[1:] + rng.choice((b"\xa1z", b"\xa4type")) + opened


def _changed(rng: random.Random, seed: bytes) -> bytes:
    fields = msgspec.msgpack.decode(seed)
    target: Any = fields
    while (
        isinstance(inner := target[name := rng.choice(list(target))], dict) and inner and rng.random() < 0.7
    ):
        target = inner
    target[name] = rng.choice(VALUES)
    return _encode(fields)


def _oversized(rng: random.Random, seed: bytes) -> bytes:
    return seed + rng.randbytes(16) * rng.choice((10, 300, 20_000))


def _endless(rng: random.Random, seed: bytes) -> bytes:
    return seed[: rng.randrange(len(seed) + 1)] + rng.choice(ENDLESS) + rng.randbytes(20)


def _as_it_is(_: random.Random, seed: bytes) -> bytes:
    return seed


def _noise(rng: random.Random, _: bytes) -> bytes:
    return rng.randbytes(rng.randint(0, 200))


_WAYS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    mutated,
    _truncated,
    _nested,
    _changed,
    _oversized,
    _endless,
    _as_it_is,
    _noise,
)
