"""Ports for a cluster on this machine, held from the plan on."""

import contextlib
import socket
from typing import Self

from sglang_memserve.cluster.errors import ClusterError

_HIGHEST = 65535


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on `port` of `host` now."""
    with _socket(host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _bound(probe, host, port)


class PortPicker:
    """Hands out distinct free ports, upwards from `first`, and holds them until the block is left.

    An instance binds its port most of a minute after it was picked, and SGLang takes two minutes to give up
    if that fails. Until then the kernel may give the port to an outgoing connection. A socket that is bound
    but never listens prevents that. Servers that set SO_REUSEADDR, as SGLang's and ours do, can still listen.
    """

    def __init__(self, host: str, first: int) -> None:
        self._host = host
        self._next = first
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def pick(self) -> int:
        """Raises ClusterError when there is none left."""
        for port in range(self._next, _HIGHEST + 1):
            if self._hold(port):
                self._next = port + 1
                return port
        raise ClusterError(f"no free port from {self._next} up: choose a lower --port")

    def _hold(self, port: int) -> bool:
        holder = _socket(self._host)
        # Without SO_REUSEADDR until it is bound, or two clusters could hold the same port.
        if not _bound(holder, self._host, port):
            holder.close()
            return False
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.enter_context(holder)
        return True


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)


def _bound(sock: socket.socket, host: str, port: int) -> bool:
    try:
        sock.bind((host, port))
    except OSError:
        return False
    return True
