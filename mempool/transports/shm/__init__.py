"""shm://: blocks between processes of one host and one user, read from where they lie by who receives them.

It is stream:// over a Unix socket, but for payloads. In place of their bytes, a message has a list of spans:
unsigned little-endian numbers, the region (32 bits), the bytes (32) and the offset (64) of each. A region is
memory of the sender's, in a sealed memfd; a prefix of 0 and 2, with its number and size, brings its
descriptor. The receiver maps it to read, and copies.

The endpoint is shm://MACHINE/NAME: where the network namespace, the kernel and the user are the same, MACHINE
is. The socket lies in the abstract namespace, under a name that nobody guesses: nothing is left behind,
however either end dies. Names are no secret, so each end asks the kernel for the user of the other one, and
has nothing to do with another user's. Processes of one user can look into each other's memory anyway: what
goes this way is not encrypted, and whoever gets a region's descriptor can read all of that region.
"""

import secrets
from functools import cached_property

from mempool.errors import MemPoolError
from mempool.sockets import SocketLimits
from mempool.transports.base import ChooseSink
from mempool.transports.shm.address import ShmAddress, this_machine
from mempool.transports.shm.connection import ShmConnection
from mempool.transports.shm.listener import ShmListener


class SharedMemory:
    """Needs no thread of its own. Linux only: elsewhere `listen` raises MemPoolError."""

    def reaches(self, endpoint: str) -> bool:
        try:
            return ShmAddress.of(endpoint).machine == self._machine
        except MemPoolError:
            return False

    def listen(
        self, url: str, limits: SocketLimits, max_frame_bytes: int, place: ChooseSink | None = None
    ) -> ShmListener:
        address = ShmAddress(self._machine, secrets.token_hex(16))
        return ShmListener(url, address, limits, max_frame_bytes, place)

    def connect(self, endpoint: str, limits: SocketLimits) -> ShmConnection:
        return ShmConnection(endpoint, limits)

    @cached_property
    def _machine(self) -> str:
        return this_machine()
