"""One arm of the index part in a process of its own, so that no arm lives on what another has freed."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from benchmark.mempool.index_arms import ARMS, BLOCKS, TOKENS, IndexArm, fill, sequence, steps


class IndexEnd:
    """Sequences go by number. Figures are microseconds, one a call."""

    def __init__(self, arm: str) -> None:
        self._name = arm
        self._arm: IndexArm = ARMS[arm]()

    def build(self, sequences: int, node_tokens: int) -> float:
        """Sequences 0 and on in a new index. Returns the resident memory that each block cost.

        That is of use the first time alone: later on memory is there to be used again.
        """
        self._arm = ARMS[self._name]()
        before = _resident()
        fill(self._arm, 0, sequences, node_tokens)
        return (_resident() - before) / (sequences * BLOCKS)

    def match(self, numbers: list[int]) -> list[float]:
        """Raises RuntimeError where it does not find all of a sequence."""
        times = []
        for number in numbers:
            call = self._arm.matcher(sequence(number))
            with _quiet():
                seconds, found = _timed(call)
            if found != TOKENS:
                raise RuntimeError(f"{self._name} matched {found} tokens of {TOKENS}")
            times.append(1e6 * seconds)
        return times

    def insert(self, numbers: list[int], node_tokens: int) -> list[float]:
        """New sequences, `node_tokens` a call."""
        return [self._insert(number, node_tokens) for number in numbers]

    def insert_in_place(self, numbers: list[int]) -> list[float]:
        """In one call, each after as many tokens were evicted; none where the arm cannot evict."""
        return [self._insert(number, TOKENS) for number in numbers if self._arm.make_room()]

    def _insert(self, number: int, node_tokens: int) -> float:
        calls = list(steps(self._arm, sequence(number), node_tokens))
        with _quiet():
            return 1e6 * sum(_timed(call)[0] for call in calls)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without garbage collection, which comes when it likes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _timed(call: Callable[[], object]) -> tuple[float, object]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
