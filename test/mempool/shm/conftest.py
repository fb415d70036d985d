"""Arenas in shared memory, and a stranger that speaks to a shm:// listener in its own words."""

import os
import socket
import struct
from collections import Counter
from pathlib import Path

import pytest

from mempool import wire
from mempool.arena import DramArena
from mempool.layout import BlockLayout

PREFIX, REGION, SPAN = struct.Struct("<II"), struct.Struct("<IQ"), struct.Struct("<IIQ")


def block_layout(plane_bytes=1 << 14, kind="mha", layers=2):
    return BlockLayout(
        kind=kind, dtype="bfloat16", page_size=16, layers=layers, heads=4,
        k_plane_bytes=plane_bytes, v_plane_bytes=plane_bytes if kind == "mha" else 0,
    )  # fmt: skip


def arena(blocks=8, *, filled=False, shared=True, layout=None):
    made = DramArena(layout or block_layout(), blocks, shared=shared)
    made.rows.random_() if filled else made.rows.zero_()
    return made


@pytest.fixture
def make_arena():
    return arena


@pytest.fixture
def make_layout():
    return block_layout


@pytest.fixture
def channel(make_channel):
    return make_channel(arena(filled=True), arena(shared=False), url="shm://")


class Stranger:
    def __init__(self, endpoint):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect("\0memserve/" + endpoint.rpartition("/")[2])
        self.say(wire.ChannelHello(wire.VERSION))
        assert isinstance(self.hear(), wire.Welcome)

    def say(self, message, spans=b""):
        header = wire.encode(message)
        self.socket.sendall(PREFIX.pack(len(header), len(spans)) + header + spans)

    def pass_region(self, descriptors, size, number=0):
        socket.send_fds(self.socket, [PREFIX.pack(0, 2) + REGION.pack(number, size)], descriptors)

    def hear(self):
        """The answer, None where the connection is closed instead."""
        while len(prefix := self._exactly(PREFIX.size)) == PREFIX.size:
            if header := PREFIX.unpack(prefix)[0]:
                return wire.decode_to_sender(self._exactly(header))
        return None

    def _exactly(self, count):
        try:
            return self.socket.recv(count, socket.MSG_WAITALL)
        except ConnectionError:
            return b""


@pytest.fixture
def stranger(channel):
    made = []

    def make():
        made.append(Stranger(channel.receiver.endpoint))
        return made[-1]

    yield make
    for each in made:
        each.socket.close()


def held():
    """What this process has of shared memory, and of anything else with a descriptor."""
    names = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            names[os.readlink(f"/proc/self/fd/{number}").partition(":[")[0]] += 1
        except FileNotFoundError:
            continue
    names["maps"] = Path("/proc/self/maps").read_text().count("memfd:memserve")
    return names


@pytest.fixture
def what_is_held():
    return held


@pytest.fixture
def spans():
    """spans((region, size, offset), ...) as the wire has them."""
    return lambda *given: b"".join(SPAN.pack(*each) for each in given)
