"""What is an address to connect to, or to listen on. Imports no zmq."""

import ipaddress
import re
from collections.abc import Collection

_URL = re.compile(r"[a-z][a-z0-9+.-]{0,15}://[!-~]{1,240}")
_TCP = re.compile(r"(?:tcp|stream)://(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_LONGEST_HOST = 253
SHM_URL = "shm://"
"""Where to listen for instances of this host and user."""
MAX_FABRICS = 4
"""Endpoints that one receiver of blocks has beside the one that every sender can use."""
_WITH_HOST = ("tcp", "stream")


def check_endpoint(endpoint: str, *, schemes: Collection[str] = (), lowest_port: int = 1) -> None:
    """Raises ValueError for what is no address to connect to, or to listen on where port 0 is one.

    `schemes`: those that are allowed; none: any. What a peer names is checked where it is decoded.
    """
    if not _URL.fullmatch(endpoint):
        raise ValueError(f"not an endpoint: {endpoint!r:.300}, give scheme://address")
    scheme = endpoint.partition(":")[0]
    if schemes and scheme not in schemes:
        raise ValueError(f"not an endpoint: {endpoint!r}, give {' or '.join(schemes)}://address")
    if scheme in _WITH_HOST:
        parts = _TCP.fullmatch(endpoint)
        if not (parts and _is_host(parts[1]) and lowest_port <= int(parts[2]) < 65536):
            raise ValueError(f"not an endpoint: {endpoint!r}, give {scheme}://host:port")


def is_loopback(endpoint: str) -> bool:
    """Whether only this host reaches what listens there. Of schemes without hosts: yes."""
    scheme, _, address = endpoint.partition("://")
    return scheme not in _WITH_HOST or is_loopback_host(address.rpartition(":")[0].strip("[]"))


def is_loopback_host(host: str) -> bool:
    """Of an address or a name. One other than localhost may mean any address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_host(host: str) -> bool:
    """Whether it could be looked up: the codec of names refuses labels that are empty or too long."""
    try:
        if host.startswith("["):
            return bool(ipaddress.IPv6Address(host[1:-1]))
        return len(host.encode("idna")) <= _LONGEST_HOST
    except ValueError:
        return False
