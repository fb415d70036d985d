"""The thread that reads decode's messages from the common layer's control socket."""

import logging
import threading
import time
from collections.abc import Callable

import zmq

from mempool.errors import FrameError
from mempool.guard import LoopGuard
from mempool.security.authenticator import HandshakeMonitor
from mempool.sockets import Wakeup, receive_parts

logger = logging.getLogger(__name__)

_SWEEP_S = 10
MAX_PARTS = 8
"""Of a message: SGLang's own abort has most."""


class ControlListener:
    """Calls `handle(frames, peer)` for each message, and `sweep()` every 10 s, until it is closed or its
    socket is.

    `peer`: the address of the host that sent it. `handle` raises FrameError for a message that it cannot
    read.
    """

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        handle: Callable[[list[bytes], str], None],
        sweep: Callable[[], None],
    ) -> None:
        self._socket = socket
        self._handle = handle
        self._sweep = sweep
        self.bad_frames = 0
        self._handshakes = HandshakeMonitor(socket)
        self._guard = LoopGuard("reading decode's control messages")
        self._closing = False
        self._wakeup = Wakeup()
        self._thread = threading.Thread(target=self._listen, name="memserve-control", daemon=True)
        self._thread.start()

    @property
    def refused(self) -> int:
        """Connections that were not let in."""
        return self._handshakes.refused

    def close(self) -> None:
        """Ends the thread. The socket may be closed after that, and not before: libzmq would crash."""
        self._closing = True
        self._wakeup.set()
        self._thread.join()
        self._wakeup.close()
        self._handshakes.close()

    def _listen(self) -> None:
        socket = self._socket
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._handshakes.events, zmq.POLLIN)
        poller.register(self._wakeup, zmq.POLLIN)
        next_sweep = time.monotonic() + _SWEEP_S
        while not self._closing and not socket.closed:
            with self._guard:
                ready = dict(poller.poll(_SWEEP_S * 1000))
                self._handshakes.read()
                if socket in ready:
                    self._take(receive_parts(socket, MAX_PARTS, flags=0))
            # Whatever was read: what is overdue is ended by the clock alone.
            if time.monotonic() > next_sweep:
                next_sweep = time.monotonic() + _SWEEP_S
                with self._guard:
                    self._sweep()

    def _take(self, frames: list[zmq.Frame]) -> None:
        try:
            self._handle([frame.bytes for frame in frames], str(frames[0].get("Peer-Address")))
        except FrameError as error:
            self.bad_frames += 1
            logger.debug("dropped a control message: %s", error)
