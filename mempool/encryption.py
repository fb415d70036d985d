"""Whether blocks are encrypted on their way. Imports no torch."""

from enum import StrEnum

from mempool.endpoints import is_loopback


class Encryption(StrEnum):
    """The values of `--memserve-encrypt`."""

    # Where the bytes leave the machine.
    AUTO = "auto"
    ON = "on"
    OFF = "off"

    def applies_at(self, url: str) -> bool:
        """Whether an instance that listens for blocks at `url` has them encrypted, and encrypts its own."""
        if self is Encryption.AUTO:
            return not is_loopback(url)
        return self is Encryption.ON
