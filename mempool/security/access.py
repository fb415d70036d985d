"""What a process of the cluster shows when it connects, and asks for where it listens."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import zmq
from zmq.utils import z85

from mempool.endpoints import is_loopback
from mempool.errors import MemPoolError
from mempool.security.cluster_key import FILE_VARIABLE, MAKE_KEY, ClusterKey

INSECURE_VARIABLE = "MEMSERVE_INSECURE"
ZAP_DOMAIN = b"memserve"

# A peer that says nothing holds a connection for so long.
_HANDSHAKE_MILLISECONDS = 5000
# What libzmq takes as a routing id.
_LONGEST_ROUTING_ID = 255


def insecure_of(text: str) -> bool:
    """What INSECURE_VARIABLE, or a flag of that name, says. Raises ValueError for neither yes nor no."""
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError(f"{text}: give 1, or 0")
    return text.lower() in ("1", "true")


class UnprotectedAddress(MemPoolError):
    """Other hosts would reach a port that asks nobody for a key."""


class CurveKeys(NamedTuple):
    """A key pair of ZeroMQ's CURVE, as text of 40 bytes each (Z85)."""

    public: bytes
    secret: bytes


@dataclass(frozen=True)
class ClusterAccess:
    """Whom this process serves, and as whom it connects.

    With a key, ZeroMQ sockets speak CURVE, and hear nobody who has another key or none. Without one, they
    speak in the clear, and only addresses of the loopback are served, unless `insecure`. `name`: who this
    process is; other members of the cluster believe it. See `mempool.speaker`.
    """

    key: ClusterKey | None = None
    insecure: bool = False
    name: str = ""

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        key_file: str = "",
        insecure: bool = False,
        name: str = "",
    ) -> "ClusterAccess":
        """`key_file`, `insecure`: what flags say. Raises ClusterKeyError."""
        return cls(ClusterKey.from_environment(environ, file=key_file), insecure, name)

    @property
    def caveat(self) -> str:
        """What a process says once when it starts; "" for nothing."""
        if not self.insecure or self.key is not None:
            return ""
        return (
            "insecure: whoever reaches the ports of this process can read and change KV: "
            f"give the cluster a key ({FILE_VARIABLE})"
        )

    def check_bind(self, url: str) -> None:
        """Raises UnprotectedAddress where other hosts would reach `url`, and need no key."""
        if self.key is None and not self.insecure and not is_loopback(url):
            raise UnprotectedAddress(
                f"cannot listen at {url} without a cluster key, since other hosts may reach it: set "
                f"{FILE_VARIABLE} to a file with the cluster's key ({MAKE_KEY}), or listen on 127.0.0.1; "
                f"--insecure ({INSECURE_VARIABLE}=1) serves everybody"
            )

    def serve(self, socket: zmq.Socket[Any], url: str) -> None:
        """Before `socket` binds to `url`, in a context with an `Authenticator`. Raises as `check_bind`."""
        self.check_bind(url)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MILLISECONDS)
        if self.key is not None:
            socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
            # Without an answer from the authenticator, nobody is let in.
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._server.secret)
            socket.setsockopt(zmq.CURVE_SERVER, 1)

    def present(self, socket: "zmq.Socket[Any] | zmq.Context[Any]") -> None:
        """Before `socket` connects. A context gives the options to each socket that is made from then on."""
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MILLISECONDS)
        if self.key is not None:
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self.member.public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self.member.secret)
            socket.setsockopt(zmq.CURVE_SERVERKEY, self._server.public)
        if isinstance(socket, zmq.Socket) and (routing_id := self._routing_id()):
            socket.setsockopt(zmq.ROUTING_ID, routing_id)

    def why_lost(self, *, opened: bool, reached: bool) -> str:
        """Of a connection. `opened`: there was one; `reached`: somebody listens there, whoever it is."""
        if opened:
            return "connection closed"
        return self.handshake_failed() if reached else "cannot connect"

    def handshake_failed(self) -> str:
        """Why a connection may have been closed before anything could be said over it."""
        if self.key is None:
            return f"closed before it could be used: if the cluster has a key, set {FILE_VARIABLE} here too"
        return "closed before it could be used: do both sides have the same cluster key?"

    @cached_property
    def member(self) -> CurveKeys:
        """What every client of the cluster shows."""
        return self._pair("curve member")

    @cached_property
    def _server(self) -> CurveKeys:
        return self._pair("curve server")

    def _pair(self, purpose: str) -> CurveKeys:
        assert self.key is not None
        secret = z85.encode(self.key.derive(purpose))
        return CurveKeys(zmq.curve_public(secret), secret)

    def _routing_id(self) -> bytes:
        """Of no connection before: a ROUTER takes no second connection under an id that it has."""
        routing_id = f"{self.name}/{secrets.token_hex(8)}".encode() if self.name else b""
        return routing_id if len(routing_id) <= _LONGEST_ROUTING_ID else b""


LOOPBACK_ONLY = ClusterAccess()
"""Without a key."""
