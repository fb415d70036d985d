"""What the prefill and the decode side use of the manager that they belong to."""

from typing import Any, Protocol

import zmq

from mempool.security.access import ClusterAccess
from sglang_memserve.caching.prefill_origins import PrefillOrigin


class SideHost(Protocol):
    """`local_ip` and `server_socket` are SGLang's names: where this rank listens for control messages.
    `access`: whom it hears.
    """

    local_ip: Any
    server_socket: "zmq.Socket[bytes]"
    access: ClusterAccess

    @property
    def origin(self) -> PrefillOrigin | None:
        """This instance, where answers can be sent back to it."""

    def introduce(self, room: int, origin: PrefillOrigin) -> None:
        """Names the prefill instance that served the room."""
