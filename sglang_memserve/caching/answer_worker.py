"""The thread that compares prompts with the answers that were written back."""

import logging
import queue
import threading
from collections.abc import Callable
from functools import partial

from sglang_memserve.caching.counters import Counters
from sglang_memserve.caching.prefix_keys import TokenIds
from sglang_memserve.caching.written_back_answers import WrittenBackAnswers

logger = logging.getLogger(__name__)

_MAX_WAITING = 256


class AnswerWorker:
    """Hashes and decodes tokens away from the scheduler's thread, which makes all calls. They never block.

    Where too much waits, a call is dropped and counted: the counters of answers are then too low.
    The tokenizer may decode here and on the scheduler's thread at once.
    """

    def __init__(self, answers: WrittenBackAnswers, counters: Counters) -> None:
        self._answers = answers
        self._counters = counters
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._has_answers = False
        self._thread = threading.Thread(target=self._run, name="memserve-answers", daemon=True)
        self._thread.start()

    def remember(self, tokens: TokenIds, first: int, namespace: str) -> None:
        """As `WrittenBackAnswers.remember`. The tokens must not change afterwards."""
        self._has_answers = True
        self._put(partial(self._answers.remember, tokens, first, namespace))

    def compare(self, tokens: TokenIds, namespace: str) -> None:
        """As `WrittenBackAnswers.compare`. The tokens must not change afterwards."""
        if self._has_answers:
            self._put(partial(self._answers.compare, tokens, namespace))

    def clear(self) -> None:
        """What was remembered before is compared with nothing that comes after."""
        if self._has_answers:
            self._has_answers = False
            self._waiting.put(self._answers.clear)

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _put(self, call: Callable[[], None]) -> None:
        if self._waiting.qsize() < _MAX_WAITING:
            self._waiting.put(call)
        else:
            self._counters.add("answer_checks_dropped")

    def _run(self) -> None:
        while (call := self._waiting.get()) is not None:
            try:
                call()
            except Exception:
                logger.exception("a prompt is not compared with written-back answers")
