"""The transports by URL scheme."""

from mempool.errors import MemPoolError
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess
from mempool.sockets import SocketLimits
from mempool.transports.base import ChooseSink, Fabric, Transport, TransportConnection, TransportListener
from mempool.transports.inproc import InProcess
from mempool.transports.shm import SharedMemory
from mempool.transports.stream import Stream
from mempool.transports.zeromq import ZeroMQ


class Transports:
    """The transports by URL scheme: `shm`, `stream`, `tcp`, `ipc`, `inproc`, and registered ones.

    `inproc` connects pools that share one object of this class.

    Args:
        max_bandwidth: Bytes a second that each `stream` connection sends at most; 0: no bound. With one there
            is no `shm`, which nobody paces.
        access: Who is heard, and as whom it connects.
        shm: Whether there is `shm`.
    """

    def __init__(
        self, max_bandwidth: int = 0, *, access: ClusterAccess = LOOPBACK_ONLY, shm: bool = True
    ) -> None:
        self._access = access
        self._zeromq = zeromq = ZeroMQ(access)
        self._by_scheme: dict[str, Transport] = {
            "stream": Stream(max_bandwidth),
            "tcp": zeromq,
            "ipc": zeromq,
            "inproc": InProcess(),
        }
        self._fabrics: dict[str, Fabric] = {"shm": SharedMemory()} if shm and not max_bandwidth else {}
        self._by_scheme |= self._fabrics

    @property
    def refused(self) -> int:
        """Connections of ZeroMQ that were not let in."""
        return self._zeromq.refused

    def register(self, scheme: str, transport: Transport) -> None:
        """Adds a transport for a scheme. Raises MemPoolError if the scheme has one."""
        if scheme in self._by_scheme:
            raise MemPoolError(f"there is a transport for {scheme}:// already")
        self._by_scheme[scheme] = transport

    def reaches(self, endpoint: str) -> bool:
        """Whether there is a fabric for it here, over which it may be reached."""
        fabric = self._fabrics.get(endpoint.partition("://")[0])
        return fabric is not None and fabric.reaches(endpoint)

    def listen(
        self, url: str, limits: SocketLimits, max_frame_bytes: int, place: ChooseSink | None = None
    ) -> TransportListener:
        """The listener's `endpoint` is what to connect to. Raises MemPoolError."""
        transport = self._transport(url)
        self._access.check_bind(url)
        return transport.listen(url, limits, max_frame_bytes, place)

    def connect(self, endpoint: str, limits: SocketLimits) -> TransportConnection:
        """Raises MemPoolError."""
        return self._transport(endpoint).connect(endpoint, limits)

    def _transport(self, url: str) -> Transport:
        scheme, separator, _ = url.partition("://")
        if not separator or scheme not in self._by_scheme:
            known = ", ".join(f"{name}://" for name in sorted(self._by_scheme))
            raise MemPoolError(f"no transport for {url!r}: known are {known}")
        return self._by_scheme[scheme]
