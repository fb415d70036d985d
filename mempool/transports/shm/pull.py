"""Copies the payload of one message out of the sender's regions."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from mempool.transports.base import PayloadSink

# Whoever withdraws a ticket waits for so much at most.
_AT_ONCE = 1024 * 1024


class Pull:
    """`parts`: where the payload is."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self.size = sum(part.nbytes for part in parts)
        self._left = self.size
        self._source = deque(np.frombuffer(part, dtype=np.uint8) for part in parts)

    def into(self, sink: PayloadSink) -> None:
        """Copies all of it, as the sink lets it."""
        while self._left:
            self._left -= sink.fill(self._read)

    def _read(self, parts: Sequence[memoryview]) -> int:
        """As a transport's `Read`."""
        room = min(_AT_ONCE, self._left)
        for part in parts:
            target = np.frombuffer(part, dtype=np.uint8)
            while room and len(target):
                source = self._source[0]
                count = min(len(source), len(target), room)
                # Numpy lets other threads run meanwhile.
                target[:count] = source[:count]
                if count == len(source):
                    self._source.popleft()
                else:
                    self._source[0] = source[count:]
                target, room = target[count:], room - count
        return min(_AT_ONCE, self._left) - room
