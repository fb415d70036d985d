"""Whether blocks are encrypted on their way. Imports no torch."""

import ipaddress
from enum import StrEnum


class Encryption(StrEnum):
    """The values of `--memserve-encrypt`."""

    # Where the bytes leave the machine.
    AUTO = "auto"
    ON = "on"
    OFF = "off"

    def applies_at(self, url: str) -> bool:
        """Whether an instance that listens for blocks at `url` has them encrypted, and encrypts its own."""
        if self is Encryption.AUTO:
            return not _is_local(url)
        return self is Encryption.ON


def _is_local(url: str) -> bool:
    scheme, _, address = url.partition("://")
    if scheme in ("inproc", "ipc"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
