"""What ends the waits of SGLang's scheduler for other threads and instances."""

import threading
from typing import Any

import zmq

from mempool.sockets import Wakeup

# Long enough to leave the core to the threads that end a wait, too short to be felt by a new request.
_WAIT_S = 0.002


class SchedulerWakeup:
    """`notify` and `wake` may be called from any thread, all else belongs to the scheduler's."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._wakeup = Wakeup()
        self._woken = False

    def wait(self) -> None:
        """Waits for the next `notify`, or 2 ms."""
        self._event.wait(_WAIT_S)
        self._event.clear()

    def notify(self) -> None:
        """Ends a `wait`."""
        self._event.set()

    def wake(self) -> None:
        """Ends a `wait`, and the sleep of a scheduler that has nothing to do."""
        self.notify()
        # In the other order a `poll_with` in between would leave it readable for good: no sleep would last.
        self._wakeup.set()
        self._woken = True

    def poll_with(self, sleeper: Any) -> None:
        """Lets `wake` end the sleep of `sleeper`, SGLang's IdleSleeper or None. Called once an iteration."""
        poller = getattr(sleeper, "poller", None)
        if poller is not None and self._wakeup not in poller:
            poller.register(self._wakeup, zmq.POLLIN)
        if self._woken:
            self._woken = False
            self._wakeup.clear()
