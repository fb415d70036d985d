"""Copies the payload of one message out of the sender's regions."""

from collections.abc import Sequence

import numpy as np

from mempool.transports.base import PayloadSink
from mempool.transports.vector import Vector

# Whoever withdraws a ticket waits for so much at most.
_AT_ONCE = 1024 * 1024


class Pull:
    """`parts`: where the payload is."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._source = Vector(parts)
        self.size = self._source.left

    def into(self, sink: PayloadSink) -> None:
        """Copies all of it, as the sink lets it."""
        while self._source.left:
            sink.fill(self._read)

    def _read(self, parts: Sequence[memoryview]) -> int:
        """As a transport's `Read`."""
        copied = 0
        for part in parts:
            target = np.frombuffer(part, dtype=np.uint8)
            while len(target) and copied < _AT_ONCE:
                source = self._source.head()[0]
                count = min(len(source), len(target), _AT_ONCE - copied)
                # Numpy lets other threads run meanwhile.
                target[:count] = np.frombuffer(source[:count], dtype=np.uint8)
                self._source.advance(count)
                target, copied = target[count:], copied + count
        return copied
