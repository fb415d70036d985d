"""An instance's connection to one registry."""

import logging
import random

import zmq
from zmq.utils.monitor import recv_monitor_message

from mempool.errors import FrameError
from mempool.membership.messages import (
    Join,
    MembershipSnapshot,
    MemberStatus,
    ToMember,
    ToRegistry,
    decode_to_member,
    encode,
)
from mempool.security.access import ClusterAccess
from mempool.sockets import CONNECTING, CONNECTION_LOST
from mempool.wire import MAX_HEADER_BYTES

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.1
_JOIN_AGAIN_SECONDS = 2.0
MAX_MEMBERS = 65536
_LONGEST_PAUSE_SECONDS = 2.0
# A registry that has so many beats to read is not reading.
_SEND_QUEUE_MESSAGES = 16
_RECEIVE_QUEUE_MESSAGES = 4096
# How long a registry's host may leave data unacknowledged. A registry that merely stands still acknowledges.
_HOST_SILENCE_MILLISECONDS = 10_000
_LINGER_MILLISECONDS = 200


class LinkLost(Exception):
    pass


class RegistryLink:
    """Belongs to the member's thread. Each connection has a socket of its own, so that nothing of an earlier
    one can come in late.

    It is not closed because a registry is silent: that would be the instance's death there once the registry
    reads on.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        poller: zmq.Poller,
        access: ClusterAccess,
    ) -> None:
        self.endpoint = endpoint
        self.connected = False
        self.why_not = "not tried yet"
        self.joined = False
        self.join_at = 0.0
        self.seq = 0
        self.heard = 0.0
        self._pages: list[MemberStatus] = []
        self._context = context
        self._poller = poller
        self._access = access
        # Somebody listens there, whether or not a registry that has this one's key.
        self._reached = False
        self._sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]] | None = None
        self._open_at = 0.0
        self._give_up_at = 0.0
        self._pause = _FIRST_PAUSE_SECONDS

    def read(self, now: float) -> list[ToMember]:
        """What the registry said; connects, where that is due. Raises LinkLost."""
        if self._sockets is None:
            if now >= self._open_at:
                self._open(now)
            return []
        socket, monitor = self._sockets
        messages: list[ToMember] = []
        try:
            while True:
                messages.append(decode_to_member(socket.recv(zmq.NOBLOCK)))
        except zmq.Again:
            pass
        except FrameError as error:
            raise LinkLost(f"not a registry: {error}") from None
        if messages:
            self.heard = now
            return messages
        self._read_events(monitor, now)
        return []

    def send(self, message: ToRegistry) -> None:
        """Drops what cannot be sent now: all that a member says is said again, or seen from its absence."""
        if self._sockets is None:
            return
        try:
            self._sockets[0].send(encode(message), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            logger.debug("%s takes no message: %s", self.endpoint, error)

    def join(self, message: Join, now: float) -> None:
        """Asks the registry for a snapshot, and again after a while if it sends none."""
        self.join_at = now + _JOIN_AGAIN_SECONDS
        self._pages = []
        self.send(message)

    def rejoin(self) -> None:
        """What was received so far does not count any more: the next turn joins again."""
        self.joined, self.join_at = False, 0.0

    def take_page(self, page: MembershipSnapshot) -> list[MemberStatus] | None:
        """All members once the last page is here, None before. Raises LinkLost for too many."""
        self._pages += page.members
        if len(self._pages) > MAX_MEMBERS:
            raise LinkLost(f"more than {MAX_MEMBERS} members")
        if not page.done:
            return None
        self.joined, self.seq = True, page.seq
        members, self._pages = self._pages, []
        return members

    def advance(self) -> None:
        """The next change of the registry was taken."""
        self.seq += 1

    def refuse(self, reason: str) -> bool:
        """The registry refuses this instance. Returns whether the reason is a new one."""
        known, self.joined, self.why_not = self.why_not, False, reason
        return reason != known

    def lose(self, now: float, cause: str) -> None:
        """Closes the connection; the next is tried after a pause, each longer than the one before."""
        self.why_not = cause
        self.close()
        # Not all instances at once when a registry is back.
        self._open_at = now + self._pause * random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    def close(self) -> None:
        if self._sockets is None:
            return
        socket, monitor = self._sockets
        for each in self._sockets:
            self._poller.unregister(each)
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=_LINGER_MILLISECONDS)
        self._sockets = None
        self.connected = self.joined = False
        self._pages = []

    def _open(self, now: float) -> None:
        socket = self._context.socket(zmq.DEALER)
        monitor = socket.get_monitor_socket(CONNECTING)
        self._reached = False
        self._sockets = socket, monitor
        for each in self._sockets:
            self._poller.register(each, zmq.POLLIN)
        socket.setsockopt(zmq.SNDHWM, _SEND_QUEUE_MESSAGES)
        socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE_MESSAGES)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_HEADER_BYTES)
        if self.endpoint.startswith("tcp:"):
            socket.setsockopt(zmq.TCP_MAXRT, _HOST_SILENCE_MILLISECONDS)
        if "[" in self.endpoint:
            socket.setsockopt(zmq.IPV6, 1)
        self._access.present(socket)
        self._give_up_at = now + _CONNECT_SECONDS
        try:
            socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            raise LinkLost(f"cannot connect: {error}") from None

    def _read_events(self, monitor: zmq.Socket[bytes], now: float) -> None:
        while monitor.poll(0):
            event = recv_monitor_message(monitor)["event"]
            if event & CONNECTION_LOST:
                raise LinkLost(self._access.why_lost(opened=self.connected, reached=self._reached))
            if event == zmq.EVENT_CONNECTED:
                self._reached = True
                continue
            self.connected = True
            self.heard = self.join_at = now
            self._pause = _FIRST_PAUSE_SECONDS
        if not self.connected and now > self._give_up_at:
            raise LinkLost(f"no answer in {_CONNECT_SECONDS:g} s")
