"""Where a shm:// listener is found, and of whom a Unix socket's other end is."""

import os
import re
import socket
import struct
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from mempool.errors import MemPoolError

_ENDPOINT = re.compile(r"shm://([0-9a-f]{32})/([0-9a-f]{32})")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = Path("/proc/self/ns/net")
# Process, user and group.
_CREDENTIALS = struct.Struct("=iII")


class ShmAddress(NamedTuple):
    """`machine`: as `this_machine` has it there."""

    machine: str
    name: str

    @classmethod
    def of(cls, endpoint: str) -> "ShmAddress":
        """Raises MemPoolError."""
        parts = _ENDPOINT.fullmatch(endpoint)
        if parts is None:
            raise MemPoolError(f"not an endpoint: {endpoint!r:.300}, give shm://machine/name")
        return cls(parts[1], parts[2])

    @property
    def endpoint(self) -> str:
        return f"shm://{self.machine}/{self.name}"

    @property
    def socket(self) -> str:
        """In the abstract namespace of Unix sockets, which the kernel tidies up."""
        return f"\0memserve/{self.name}"


def this_machine() -> str:
    """The same for processes that one kernel runs for one user in one network namespace, and for no others.

    Abstract Unix sockets are a network namespace's. It is a digest: a boot id is nobody else's business.
    Raises MemPoolError where there is no such thing.
    """
    try:
        network = _NETWORK.stat()
        parts = _BOOT_ID.read_text().strip(), network.st_dev, network.st_ino, os.geteuid()
    except OSError as error:
        raise MemPoolError(f"shm:// needs Linux: {error}") from error
    return blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def user_of(stream: socket.socket) -> int:
    """The user at the other end, as the kernel noted it when that end connected, or listened."""
    option = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(option)[1]
    return user
