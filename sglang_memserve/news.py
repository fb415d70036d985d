"""What ends the scheduler's waits for other threads and instances."""

import threading
from typing import Any

import zmq

from mempool.sockets import Wakeup

# Long enough to leave the core to the threads that end a wait, too short to be felt by a new request.
_WAIT_SECONDS = 0.002


class News:
    def __init__(self) -> None:
        self._event = threading.Event()
        self._wakeup = Wakeup()
        self._woken = False

    def wait(self) -> None:
        """Until there is some, 2 ms at most."""
        self._event.wait(_WAIT_SECONDS)
        self._event.clear()

    def tell(self) -> None:
        """There is some for a scheduler that waits. From any thread."""
        self._event.set()

    def wake(self) -> None:
        """There is some for one that sleeps because nothing at all is to be done, too. From any thread."""
        self.tell()
        # The other way round an `attend` in between would leave it readable for good: no sleep would last.
        self._wakeup.set()
        self._woken = True

    def attend(self, sleeper: Any) -> None:
        """Once an iteration of the scheduler, whose `sleeper` is SGLang's IdleSleeper or None."""
        poller = getattr(sleeper, "poller", None)
        if poller is not None and self._wakeup not in poller:
            poller.register(self._wakeup, zmq.POLLIN)
        if self._woken:
            self._woken = False
            self._wakeup.clear()
