"""What a stranger may send in place of a message: nested, oversized, mistyped, or cut."""

import math
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from benchmark.attack.messages import ENDLESS

# Beyond the depth at which an interpreter gives up, and short enough for the feed, which takes 4 KiB.
DEEP = 1200
_VALUES = (
    None, True, -1, 0, 2**63, 2**64 - 1, -(2**63), math.nan, math.inf, -math.inf, 1e300, "", "x" * 300, "\0",
    "\u202e", b"", b"abc", b"\xff" * 64, [], [[]], {}, {"": None}, msgspec.msgpack.Ext(5, b"x"),
    msgspec.msgpack.Ext(-1, b"\xff" * 12),
)  # fmt: skip


def with_field(message: bytes, value: bytes, name: bytes = b"z") -> bytes:
    """A valid message, a map of fewer than 15 fields, with one more; `value` is in msgpack."""
    assert 0x80 <= message[0] < 0x8F
    return bytes([message[0] + 1]) + message[1:] + bytes([0xA0 + len(name)]) + name + value


def nested(depth: int = DEEP) -> Iterator[bytes]:
    yield b"\x91" * depth + b"\xc0"
    yield b"\x81\xa1k" * depth + b"\xc0"
    yield b"\xdc\x00\x01" * depth + b"\xc0"


def hostile(message: bytes) -> Iterator[bytes]:
    """Messages that are like `message`, and are none, or have a field that makes no sense."""
    yield from nested()
    yield from ENDLESS
    yield from (b"", b"\xc1", b"\x80", b"\xff", message[:-1], message + b"\xc0", message * 2)
    for value in (
        *nested(),
        *ENDLESS,
        b"\xa2\xff\xfe",
        b"\xa3\xed\xa0\x80",
        b"\xd6\xff" + b"\xff" * 4,
        b"\xc1",
    ):
        yield with_field(message, value)
        yield with_field(message, value, b"type")
    yield with_field(message, b"\xc0", b"\xff\xfe")
    whole = msgspec.msgpack.decode(message)
    yield msgspec.msgpack.encode(list(whole.values()))
    yield msgspec.msgpack.encode([whole])
    for path in list(_paths(whole)):
        yield from (msgspec.msgpack.encode(_changed(whole, path, value)) for value in _VALUES)
        yield msgspec.msgpack.encode(_without(whole, path))


def prefixed(header: bytes, payload: bytes = b"") -> bytes:
    """As a message of stream://."""
    return struct.pack("<II", len(header), len(payload)) + header + payload


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield (*above, key)
            yield from _paths(below, (*above, key))


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    return {**value, path[0]: _changed(value[path[0]], path[1:], new)} if path else new


def _without(value: dict[Any, Any], path: tuple[Any, ...]) -> dict[Any, Any]:
    if len(path) > 1:
        return {**value, path[0]: _without(value[path[0]], path[1:])}
    return {key: each for key, each in value.items() if key != path[0]}
