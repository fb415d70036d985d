"""Free ports for a cluster on this machine."""

import socket

from sglang_memserve.cluster.errors import ClusterError

_HIGHEST = 65535


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on `port` of `host` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class PortPicker:
    """Hands out distinct free ports, upwards from `first`.

    Counting up from the router's port keeps clear of the kernel's ephemeral range, where an outgoing
    connection may take a port between the probe and the instance's start.
    """

    def __init__(self, host: str, first: int) -> None:
        self._host = host
        self._next = first

    def pick(self) -> int:
        """Raises ClusterError when there is none left."""
        for port in range(self._next, _HIGHEST + 1):
            if is_free(self._host, port):
                self._next = port + 1
                return port
        raise ClusterError(f"no free port from {self._next} up: choose a lower --port")
