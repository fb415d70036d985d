"""The thread that ends what is overdue."""

import threading
from collections.abc import Callable, Sequence

from mempool.guard import LoopGuard


class ExpiryThread:
    """Calls every function of `expire` each `interval_s`, until `close`."""

    def __init__(self, expire: Sequence[Callable[[], object]], *, interval_s: float) -> None:
        self._expire = list(expire)
        self._interval_s = interval_s
        self._guard = LoopGuard("ending what is overdue")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mempool-clock", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._interval_s):
            for expire in self._expire:
                with self._guard:
                    expire()
