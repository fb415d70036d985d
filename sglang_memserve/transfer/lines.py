"""The control connections to prefill instances: one that ends takes along what is known of its instance.

SGLang's decode side asks each prefill instance for its health every 5 s, and forgets it after two misses. One
that comes back sooner listens at other ports: requests were told to the old ones, and waited for minutes.
"""

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

logger = logging.getLogger(__name__)

# A port that refuses is one that nobody listens at any more: prefill tells of none before it does.
_ENDED = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
_LOOK_MS = 200


class Lines:
    """Calls `lost(instance)`, from a thread of its own, once a connection to an instance ends.

    A socket that its owner closes ends nothing. Events of each are read until then: libzmq waits for whoever
    it tells, and with it all connections of the process would.
    """

    def __init__(self, lost: Callable[[str], None]) -> None:
        self._lost = lost
        self._new: deque[tuple[zmq.Socket[bytes], str]] = deque()
        self._watched: dict[zmq.Socket[bytes], str | None] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefill-lines", daemon=True)
        self._thread.start()

    def watch(self, instance: str, line: "zmq.Socket[bytes]") -> None:
        """`line` belongs to the calling thread, and has a peer or is about to."""
        where = f"inproc://memserve-line-{uuid.uuid4()}"
        line.monitor(where, _ENDED | zmq.EVENT_MONITOR_STOPPED)
        events = line.context.socket(zmq.PAIR)
        events.connect(where)
        self._new.append((events, instance))

    def close(self) -> None:
        """Once all lines are closed, or together with their context."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        poller = zmq.Poller()
        while not self._closing.is_set():
            while self._new:
                events, instance = self._new.popleft()
                self._watched[events] = instance
                poller.register(events, zmq.POLLIN)
            if not self._watched:
                # With nothing to look at, a poller does not wait.
                self._closing.wait(_LOOK_MS / 1000)
                continue
            for ready, _ in poller.poll(_LOOK_MS):
                if recv_monitor_message(ready)["event"] == zmq.EVENT_MONITOR_STOPPED:
                    poller.unregister(ready)
                    del self._watched[ready]
                    ready.close(linger=0)
                else:
                    self._ended(ready)

    def _ended(self, events: "zmq.Socket[bytes]") -> None:
        # What becomes of the line after that says nothing about the instance that is in its place by then.
        instance, self._watched[events] = self._watched[events], None
        if instance is not None:
            try:
                self._lost(instance)
            except Exception:
                logger.exception("the connection to %s has ended", instance)
