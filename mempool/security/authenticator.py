"""Who is let in where a ZeroMQ socket listens, and how many were not."""

import secrets
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from mempool.security.access import ZAP_DOMAIN, ClusterAccess
from mempool.sockets import HANDSHAKE_FAILED

# So that a flood of strangers does not keep a thread from its members.
_EVENTS_A_TURN = 256


class Authenticator:
    """Answers libzmq, for all sockets of a context that listen, whether a client belongs to the cluster.

    It has a thread of its own where the cluster has a key, and does nothing otherwise. Start it before the
    first socket binds; close it before the context ends.
    """

    def __init__(self, context: zmq.Context[Any], access: ClusterAccess) -> None:
        self._thread: ThreadAuthenticator | None = None
        if access.key is not None:
            self._thread = ThreadAuthenticator(context)
            self._thread.start()
            self._thread.configure_curve_callback(
                ZAP_DOMAIN.decode(), credentials_provider=_Members(access.member.public)
            )

    def close(self) -> None:
        """Idempotent. Nobody new is let in from then on."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()


class _Members:
    """What pyzmq asks for each client's public key."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def callback(self, domain: str, key: bytes) -> bool:
        return secrets.compare_digest(self._public, key)


class HandshakeMonitor:
    """Counts in `refused` the connections to a socket that did not get through the handshake.

    Make it before the socket binds. `read` is for the socket's thread, which polls `events` too: libzmq waits
    for whoever reads them.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.refused = 0
        self._socket = socket
        self.events: zmq.Socket[bytes] = socket.get_monitor_socket(HANDSHAKE_FAILED)

    def read(self) -> None:
        for _ in range(_EVENTS_A_TURN):
            if not self.events.poll(0):
                return
            recv_monitor_message(self.events)
            self.refused += 1

    def close(self) -> None:
        """Before the socket, where that is still open."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self.events.close(linger=0)
