"""Watches decode's control connections to prefill instances, whose end is the end of the instance.

SGLang's decode side asks each prefill instance for its health every 5 s, and forgets it after two misses. An
instance that comes back sooner listens at other ports: requests were sent to the old ones, and waited for
minutes.
"""

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

from mempool.guard import LoopGuard
from mempool.security.access import LOOPBACK_ONLY, ClusterAccess
from mempool.sockets import HANDSHAKE_FAILED

logger = logging.getLogger(__name__)

# A port that refuses has no listener any more: prefill publishes no port before it listens there.
_ENDED = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
_POLL_MS = 200


class ConnectionWatch:
    """Calls `on_lost(instance)`, from a thread of its own, once a connection to an instance ends.

    `access`: as whom decode connects, which may be why an instance does not hear it.

    A socket that its owner closes ends nothing. Its events are read until then: libzmq waits for the reader
    of a monitor, and with it all connections of the process would.
    """

    def __init__(self, on_lost: Callable[[str], None], access: ClusterAccess = LOOPBACK_ONLY) -> None:
        self._on_lost = on_lost
        self._access = access
        self._new: deque[tuple[zmq.Socket[bytes], str]] = deque()
        # The instance by its socket's monitor; None once the connection has ended.
        self._watched: dict[zmq.Socket[bytes], str | None] = {}
        self._closing = threading.Event()
        self._guard = LoopGuard("the end of a connection to prefill")
        self._thread = threading.Thread(target=self._run, name="prefill-connections", daemon=True)
        self._thread.start()

    def watch(self, instance: str, socket: "zmq.Socket[bytes]") -> None:
        """`socket` belongs to the calling thread, and is connected or about to be."""
        where = f"inproc://memserve-connection-{uuid.uuid4()}"
        socket.monitor(where, _ENDED | HANDSHAKE_FAILED | zmq.EVENT_MONITOR_STOPPED)
        events = socket.context.socket(zmq.PAIR)
        events.connect(where)
        self._new.append((events, instance))

    def close(self) -> None:
        """Once all watched sockets are closed, or together with their context."""
        self._closing.set()
        self._thread.join()
        for events in (*self._watched, *(events for events, _ in self._new)):
            events.close(linger=0)

    def _run(self) -> None:
        poller = zmq.Poller()
        while not self._closing.is_set():
            while self._new:
                events, instance = self._new.popleft()
                self._watched[events] = instance
                poller.register(events, zmq.POLLIN)
            if not self._watched:
                # A poller without sockets does not wait.
                self._closing.wait(_POLL_MS / 1000)
                continue
            for ready, _ in poller.poll(_POLL_MS):
                event = recv_monitor_message(ready)["event"]
                if event & HANDSHAKE_FAILED:
                    self._not_heard(ready)
                elif event == zmq.EVENT_MONITOR_STOPPED:
                    poller.unregister(ready)
                    del self._watched[ready]
                    ready.close(linger=0)
                else:
                    self._ended(ready)

    def _not_heard(self, events: "zmq.Socket[bytes]") -> None:
        if (instance := self._watched[events]) is not None:
            logger.error("a connection to prefill %s was %s", instance, self._access.handshake_failed())

    def _ended(self, events: "zmq.Socket[bytes]") -> None:
        # Later events say nothing about the instance that is at the other end by then.
        instance, self._watched[events] = self._watched[events], None
        if instance is not None:
            with self._guard:
                self._on_lost(instance)
